"""Documents in local files: text (one document), JSON lines (one a line) or tables (one a row)."""

import dataclasses
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import printable_name
from bytelm.data.sources.file_formats import (
    CHUNK,
    COMPRESSIONS,
    DAMAGE,
    UTF8_MARK,
    UTF16_MARKS,
    check_ending,
    check_whole,
    endings,
    format_of,
    is_compressed,
    is_table,
    json_lines,
    opened,
)
from bytelm.data.sources.local_files import content_digests, find_files, identity
from bytelm.data.sources.reader import SHARD_BYTES, Document, InputShard, Reader
from bytelm.data.sources.source import SingleSource
from bytelm.data.text_record import Split

if TYPE_CHECKING:
    from bytelm.data.sources.tables import Value

COMPRESSION_RATIO = 2
"""Least ratio of text to its compressed size; with it, a full disk is reported early."""
MOST_TOGETHER = 4 * SHARD_BYTES
"""Bytes of small files that are packed together, at most about."""
OPTIONS: dict[Split, str] = {
    "train": "files",
    "validation": "validation_files",
    "test": "test_files",
}
"""The option that names the files of each split."""
READING = 2
"""Version of the reader; raise it when the same files give other documents, to repack them."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files(SingleSource):
    """Local files: a text is one document, JSON lines hold one in each line."""

    kind: ClassVar[str] = "files"

    files: tuple[str, ...] = ()
    """Globs of .txt files (one document each), .jsonl files (one a line), .csv, .tsv, .parquet,
    .arrow and .feather files (one a row), or their names; .json and .ndjson are JSON lines too, and
    text, lines and CSV may end in .gz, .bz2, .xz or .zst."""
    validation_files: tuple[str, ...] = ()
    """Globs of the validation files; none = chosen by hash from the documents in `files`."""
    test_files: tuple[str, ...] = ()
    """Globs of the test files; none = chosen by hash from the documents in `files`."""
    text_key: str | None = None
    """Key of the text in a JSON line, or column of it in a table, also a nested one such as
    `page.text`; none = `text`, or a table's only column of text."""
    target_key: str | None = None
    """Key or column of the target, for the task `pairs`; the text is the input. If the target is a
    list, its first string is used."""
    script_key: str | None = None
    """Key or column of the document's script; none = unknown, or `script`."""
    skip_bad: bool = False
    """Count and skip broken JSON lines, lines without the key, rows without a value, and damaged
    compressed files and tables instead of stopping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in OPTIONS.values():
            if "" in getattr(self, name):
                raise UserError(
                    f"data.{name} names an empty file; if that is a shell variable, it is empty: "
                    "name the files, or leave the option out."
                )
        if not self.files:
            raise UserError("data.files names no file; name the files to train on.")
        if self.script is not None and self.script_key is not None:
            raise UserError(
                f"data.script is {self.script} and data.script_key {self.script_key}; give the "
                "script of all documents or the key of each one's, not both."
            )

    @property
    def label(self) -> str:
        names = sorted({Path(file).name for file in self.files})
        more = f" and {len(names) - 3} more files" if len(names) > 3 else ""
        return f"{', '.join(names[:3])}{more}"

    @property
    def has_targets(self) -> bool:
        return self.target_key is not None

    def with_files(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Self:
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in OPTIONS.values()}
        return dataclasses.replace(self, **changed)

    def reader(self, cache_path: Path | None) -> "FilesReader":
        return FilesReader(self, cache_path)


class _Part(NamedTuple):
    """A file, or some row groups of a Parquet file."""

    path: Path
    groups: range | None = None


class FilesReader(Reader):
    """Documents of local files, in the order of paths and lines.

    Raises:
        UserError: for a pattern without matches, a file of another kind, and a file of two splits.
    """

    def __init__(self, config: Files, cache_path: Path | None = None) -> None:
        self.name = Path(config.files[0]).name
        self._cache_path = cache_path
        self._config = config
        self._files = {
            split: find_files(patterns, f"data.{option}")
            for split, option in OPTIONS.items()
            if (patterns := getattr(config, option))
        }
        _check(self._files)

    @property
    def own_splits(self) -> frozenset[Split]:
        return frozenset(self._files)

    @property
    def settings(self) -> dict[str, object]:
        config = self._config
        optional = {"script_key": config.script_key, "target_key": config.target_key}
        return {
            "reading": READING,
            "text_key": config.text_key or "text",
            "skip_bad": config.skip_bad,
            **{name: key for name, key in optional.items() if key is not None},
        }

    def inputs(self, split: Split) -> object:
        """Formats and digests of the files, without their paths, as a JSON value."""
        return self._contents(self._files[split])

    def _contents(self, paths: Sequence[Path]) -> list[list[str]]:
        try:
            digests = content_digests(paths, self._cache_path)
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error
        return [[*endings(path), digest] for path, digest in zip(paths, digests, strict=True)]

    def shards(self, split: Split) -> list[InputShard]:
        """Files, small ones together, and large Parquet files in parts: in the order of documents.

        A digest of a file decides whether it is the last one of its shard, a larger file more
        often. So a changed or added file changes few shards.
        """
        found: list[InputShard] = []
        together: list[tuple[_Part, list[str]]] = []
        size, files = 0, self._files[split]

        def finish() -> None:
            if together:
                parts, contents = zip(*together, strict=True)
                found.append(InputShard(list(contents), parts, size))
                together.clear()

        for path, content in zip(files, self._contents(files), strict=True):
            own_size = _text_size(path)
            groups = self._groups(path, own_size)
            if groups:
                finish()
                found += [
                    InputShard(
                        [[*content, each.start, each.stop]],
                        (_Part(path, each),),
                        own_size // len(groups),
                    )
                    for each in groups
                ]
                size = 0
                continue
            together.append((_Part(path), content))
            size += own_size
            is_last = int(content[-1][:16], 16) < 2**64 * own_size / SHARD_BYTES
            if is_last or size >= MOST_TOGETHER:
                finish()
                size = 0
        finish()
        return found

    def _groups(self, path: Path, size: int) -> list[range]:
        """Row groups of a large Parquet file for each of its shards; none if it is one shard."""
        # Bad files are left out whole.
        if endings(path)[0] != ".parquet" or size <= 2 * SHARD_BYTES or self._config.skip_bad:
            return []
        from bytelm.data.sources.tables import row_groups

        groups = row_groups(path, SHARD_BYTES)
        return groups if len(groups) > 1 else []

    def is_unchanged(self, shard: InputShard) -> bool:
        contents = self._contents([part.path for part in shard.place])
        known = [content[: len(contents[0])] for content in cast("list[Any]", shard.content)]
        return contents == known

    def places(self, split: Split) -> object:
        return [[str(path.resolve()), path.stat().st_size] for path in self._files[split]]

    def size(self, split: Split) -> int:
        """Bytes of the documents; a lower bound if files are compressed."""
        return sum(map(_text_size, self._files[split]))

    def documents(self, split: Split) -> Iterator[Document]:
        return self._read(map(_Part, self._files[split]))

    def read(self, shard: InputShard) -> Iterator[Document]:
        return self._read(shard.place)

    def _read(self, parts: "Iterable[_Part]") -> Iterator[Document]:
        """The documents of files, read as a stream.

        If bad lines are skipped, a damaged compressed file is skipped as a whole, since the text
        before the damage may be wrong too. Otherwise both are UserErrors.
        """
        self.skipped = 0
        for path, groups in parts:
            try:
                if not self._is_skipped(path):
                    yield from self._documents(path, groups)
            except (OSError, *DAMAGE) as error:
                raise UserError(f"{path} cannot be read, or is damaged: {error}.") from error

    def _is_skipped(self, path: Path) -> bool:
        try:
            if self._config.skip_bad:
                all(True for _ in self._rows(path)) if is_table(path) else check_whole(path)
        except DAMAGE as error:
            self.skipped += 1
            logger.warning("%s is damaged, and skipped: %s", printable_name(path), error)
            return True
        return False

    def _documents(self, path: Path, groups: range | None) -> Iterator[Document]:
        if is_table(path):
            yield from self._of_rows(path, groups)
            return
        name = printable_name(path)
        with opened(path) as (stream, compression):
            if compression is not None and compression is not COMPRESSIONS.get(endings(path)[1]):
                logger.warning(
                    "%s is compressed with %s, which its name does not say", name, compression.name
                )
            head = stream.peek(CHUNK)
            if format_of(path, head) == "lines":
                yield from self._of_lines(path, stream)
                return
            self._check_no_keys(path)
            if head.startswith((UTF8_MARK, *UTF16_MARKS)):
                logger.warning(
                    "%s begins with a byte order mark, which stays part of its text", name
                )
            # In one buffer that becomes the text, so that long texts are not held twice.
            whole = io.BytesIO()
            shutil.copyfileobj(stream, whole, 2**20)
        yield Document(whole.getvalue())

    def _check_no_keys(self, path: Path) -> None:
        config = self._config
        if config.target_key is not None:
            raise UserError(
                f"{path} is text without keys, and data.target_key is {config.target_key}; give "
                "the inputs and the targets in the lines of a .jsonl file."
            )
        if config.script_key is not None:
            raise UserError(
                f"{path} is text without keys, and data.script_key is {config.script_key}; unset "
                "it with --data.script-key None, and name the script of all documents with "
                "--data.script if it is needed."
            )

    def _of_lines(self, path: Path, stream: io.BufferedReader) -> Iterator[Document]:
        for number, line in json_lines(path, stream):
            try:
                document = _document(line, self._config)
            except ValueError as error:
                self._skip(path, f"line {number}", error)
            else:
                yield document

    def _of_rows(self, path: Path, groups: range | None) -> Iterator[Document]:
        from bytelm.data.sources.tables import document_of

        for number, row in self._rows(path, groups):
            try:
                document = document_of(row, has_script=self._config.script_key is not None)
            except ValueError as error:
                self._skip(path, f"row {number}", error)
            else:
                yield document

    def _rows(
        self, path: Path, groups: range | None = None
    ) -> "Iterator[tuple[int, tuple[Value, ...]]]":
        from bytelm.data.sources.tables import table_rows  # only here, since pyarrow loads slowly

        config = self._config
        more = [name for name in (config.script_key, config.target_key) if name is not None]
        return table_rows(path, [config.text_key, *more], groups)

    def _skip(self, path: Path, place: str, error: ValueError) -> None:
        """Counts a bad line or row; UserError unless such are skipped."""
        config, what = self._config, place.partition(" ")[0]
        if config.skip_bad:
            self.skipped += 1
            return
        keys = ["--data.text-key"] + ["--data.script-key"] * bool(config.script_key)
        keys += ["--data.target-key"] * bool(config.target_key)
        raise UserError(
            f"{path}, {place}: {error}; mend the {what}, name another key with "
            f"{' or '.join(keys)}, or skip such {what}s with --data.skip-bad."
        ) from error


def _document(line: bytes, config: Files) -> Document:
    """The document in a JSON line, as UTF-8; ValueError if the line is bad."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON ({error})") from error
    text = _utf8(record, config.text_key or "text")
    script = None if config.script_key is None else _utf8(record, config.script_key).decode()
    target = None if config.target_key is None else _target(record, config.target_key)
    return Document(text, script, target)


def _target(record: object, key: str) -> bytes:
    """The target: a string, or the first string of a list."""
    if isinstance(record, dict) and isinstance(record.get(key), list) and record[key]:
        return _utf8({key: record[key][0]}, key)
    return _utf8(record, key)


def _utf8(record: object, key: str) -> bytes:
    """The string of a key in a JSON object."""
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"no key {key!r}")
    if not isinstance(record[key], str):
        raise ValueError(f"the value of {key!r} is not a string")
    try:
        return bytes(record[key], "utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the value of {key!r} has half a surrogate pair") from error


def _text_size(path: Path) -> int:
    """Bytes of a file's documents; a lower bound if it is compressed."""
    return path.stat().st_size * (COMPRESSION_RATIO if is_compressed(path) else 1)


def _check(files: dict[Split, list[Path]]) -> None:
    """UserError for a file of an unknown format, and for one in two splits."""
    owner: dict[object, Split] = {}
    for split, paths in files.items():
        for path in paths:
            check_ending(path, f"data.{OPTIONS[split]}")
            other = owner.setdefault(identity(path), split)
            if other != split:
                raise UserError(
                    f"{path} is in both the {other} and the {split} files; narrow the patterns."
                )
