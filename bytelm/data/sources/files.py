"""Documents in local files: text (one document), JSON lines (one a line) or tables (one a row)."""

import dataclasses
import io
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import printable_name
from bytelm.data.sources.contents import Content, LineRange, contents, has_range
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
    lines_before,
    opened,
)
from bytelm.data.sources.json_objects import json_document
from bytelm.data.sources.local_files import find_files, identity
from bytelm.data.sources.reader import SHARD_BYTES, Document, InputShard, Reader
from bytelm.data.sources.source import SingleSource
from bytelm.data.text_record import Split

if TYPE_CHECKING:
    from bytelm.data.sources.tables import Value

COMPRESSION_RATIO = 2
"""Least ratio of text to its compressed size; with it, a full disk is reported early."""
RANGE_BYTES = SHARD_BYTES
"""Bytes of a range of a large file of lines; another number packs such files once more."""
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
    """Key of the text in a JSON line, or column of it in a table; nested ones as `page.text`.
    None = `text`, or a table's only column of text."""
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
    """A file, or a part of one."""

    path: Path
    within: range | None = None
    """Row groups of a Parquet file, batches of an Arrow file, bytes of a file of lines."""


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
        files = self._files[split]
        found = self._contents(files, divided=False)
        return [_described(path, content) for path, content in zip(files, found, strict=True)]

    def _contents(self, paths: Sequence[Path], *, divided: bool) -> list[Content]:
        try:
            return contents(paths, self._cache_path, RANGE_BYTES, divided=divided)
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error

    def shards(self, split: Split) -> list[InputShard]:
        """Files, small ones together, and large ones in parts: in the order of documents.

        A digest of a file decides whether it is the last one of its shard, a larger file more
        often. So a changed or added file changes few shards.
        """
        found: list[InputShard] = []
        together: list[tuple[_Part, list[str]]] = []
        size, files = 0, self._files[split]

        def finish() -> None:
            if together:
                parts, described = zip(*together, strict=True)
                found.append(InputShard(list(described), parts, size))
                together.clear()

        for path, content in zip(files, self._contents(files, divided=True), strict=True):
            own_size = _text_size(path)
            if divided := self._divided(path, content, own_size):
                finish()
                found += divided
                size = 0
                continue
            together.append((_Part(path), _described(path, content)))
            size += own_size
            is_last = int(content.digest[:16], 16) < 2**64 * own_size / SHARD_BYTES
            if is_last or size >= MOST_TOGETHER:
                finish()
                size = 0
        finish()
        return found

    def _divided(self, path: Path, content: Content, size: int) -> list[InputShard]:
        """The shards of a large file that can be read from several places; otherwise none."""
        if content.ranges:
            # A mark of the file's first bytes counts only there.
            return [
                InputShard(
                    [[*endings(path), digest, begin == 0]],
                    (_Part(path, range(begin, end)),),
                    end - begin,
                )
                for begin, end, digest in content.ranges
            ]
        # Bad files are left out whole.
        if not is_table(path) or size <= 2 * SHARD_BYTES or self._config.skip_bad:
            return []
        from bytelm.data.sources.tables import parts

        found, described = parts(path, SHARD_BYTES), _described(path, content)
        if len(found) < 2:
            return []
        return [
            InputShard(
                [[*described, each.start, each.stop]], (_Part(path, each),), size // len(found)
            )
            for each in found
        ]

    def is_unchanged(self, shard: InputShard) -> bool:
        parts, known = shard.place, cast("list[Any]", shard.content)
        path, within = parts[0]
        if within is not None and not is_table(path):
            lines = LineRange(within.start, within.stop, known[0][2])
            return has_range(path, lines, self._cache_path)
        paths = [part.path for part in parts]
        now = zip(paths, self._contents(paths, divided=False), strict=True)
        return all(
            _described(path, content) == described[:3]
            for (path, content), described in zip(now, known, strict=True)
        )

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
        for part in parts:
            path = part.path
            try:
                if not self._is_skipped(path):
                    yield from self._documents(part)
            except (OSError, *DAMAGE) as error:
                reason = str(error).rstrip(".")
                raise UserError(f"{path} cannot be read, or is damaged: {reason}.") from error

    def _is_skipped(self, path: Path) -> bool:
        try:
            if self._config.skip_bad:
                all(True for _ in self._rows(_Part(path))) if is_table(path) else check_whole(path)
        except DAMAGE as error:
            self.skipped += 1
            logger.warning("%s is damaged, and skipped: %s", printable_name(path), error)
            return True
        return False

    def _documents(self, part: _Part) -> Iterator[Document]:
        path = part.path
        if is_table(path):
            yield from self._of_rows(part)
            return
        name = printable_name(path)
        with opened(path) as (stream, compression):
            if compression is not None and compression is not COMPRESSIONS.get(endings(path)[1]):
                logger.warning(
                    "%s is compressed with %s, which its name does not say", name, compression.name
                )
            head = stream.peek(CHUNK)
            if format_of(path, head) == "lines":
                yield from self._of_lines(part, stream)
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

    def _of_lines(self, part: _Part, stream: io.BufferedReader) -> Iterator[Document]:
        config = self._config
        for number, line in json_lines(part.path, stream, part.within):
            try:
                document = json_document(
                    line, config.text_key or "text", config.script_key, config.target_key
                )
            except ValueError as error:
                self._skip(part, "line", number, error)
            else:
                yield document

    def _of_rows(self, part: _Part) -> Iterator[Document]:
        from bytelm.data.sources.tables import document_of

        for number, row in self._rows(part):
            try:
                document = document_of(row, has_script=self._config.script_key is not None)
            except ValueError as error:
                self._skip(part, "row", number, error)
            else:
                yield document

    def _rows(self, part: _Part) -> "Iterator[tuple[int, tuple[Value, ...]]]":
        from bytelm.data.sources.tables import table_rows  # only here, since pyarrow loads slowly

        config = self._config
        more = [name for name in (config.script_key, config.target_key) if name is not None]
        return table_rows(part.path, [config.text_key, *more], part.within)

    def _skip(self, part: _Part, what: str, number: int, error: ValueError) -> None:
        """Counts a bad line or row with this number in a part; UserError unless it is skipped."""
        config = self._config
        if config.skip_bad:
            self.skipped += 1
            return
        place = f"{what} {_before(part) + number}"
        keys = ["--data.text-key"] + ["--data.script-key"] * bool(config.script_key)
        keys += ["--data.target-key"] * bool(config.target_key)
        raise UserError(
            f"{part.path}, {place}: {error}; mend the {what}, name another key with "
            f"{' or '.join(keys)}, or skip such {what}s with --data.skip-bad."
        ) from error


def _described(path: Path, content: Content) -> list[str]:
    """The format and the digest of a file, without its path."""
    return [*endings(path), content.digest]


def _before(part: _Part) -> int:
    """The lines or rows of a file before a part of it."""
    if part.within is None:
        return 0
    if not is_table(part.path):
        return lines_before(part.path, part.within.start)
    from bytelm.data.sources.tables import rows_before

    return rows_before(part.path, part.within.start)


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
