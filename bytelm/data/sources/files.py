"""Documents in local files: a text holds one, JSON lines one a line, either may be compressed."""

import io
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import printable_name
from bytelm.data.config import SourceConfig, Split
from bytelm.data.sources.contents import content_digests
from bytelm.data.sources.document import Document
from bytelm.data.sources.file_formats import (
    CHUNK,
    COMPRESSIONS,
    DAMAGE,
    UTF8_MARK,
    UTF16_MARKS,
    check_ending,
    check_json_lines,
    check_whole,
    endings,
    format_of,
    opened,
)
from bytelm.data.sources.find_files import find_files, identity

COMPRESSION_RATIO = 2
"""The least that text is made smaller by, to tell early when the disk has surely no room."""
READING = 2
"""Raise it when the same files give other documents; they are then packed again."""

logger = logging.getLogger(__name__)


class FilesReader:
    """Documents of local files, in the order of their paths and lines.

    Raises:
        UserError: for a pattern that matches nothing, a file of another kind, and a file that
            two splits share.
    """

    def __init__(self, config: SourceConfig, cache_path: Path | None = None) -> None:
        patterns: dict[Split, tuple[str, ...]] = {
            "train": config.files,
            "validation": config.validation_files,
            "test": config.test_files,
        }
        self.name = Path(config.files[0]).name
        self.skipped = 0
        self._cache_path = cache_path
        self._text_key = config.text_key or "text"
        self._script_key = config.script_key
        self._target_key = config.target_key
        self._skip_bad = config.skip_bad
        self._files = {split: _found(globs, split) for split, globs in patterns.items() if globs}
        _check_disjoint(self._files)

    @property
    def own_splits(self) -> frozenset[Split]:
        """The splits that have files of their own."""
        return frozenset(self._files)

    @property
    def settings(self) -> dict[str, object]:
        """What of the config decides which documents are read, besides the files."""
        settings: dict[str, object] = {
            "reading": READING,
            "text_key": self._text_key,
            "skip_bad": self._skip_bad,
        }
        optional = {"script_key": self._script_key, "target_key": self._target_key}
        return settings | {name: key for name, key in optional.items() if key is not None}

    def inputs(self, split: Split) -> object:
        """Formats and digests of the files' contents, wherever they are: a JSON value."""
        paths = self._files[split]
        try:
            digests = content_digests(paths, self._cache_path)
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error
        return [[*endings(path), digest] for path, digest in zip(paths, digests, strict=True)]

    def places(self, split: Split) -> object:
        """Real path and size of each file."""
        return [[str(path.resolve()), path.stat().st_size] for path in self._files[split]]

    def size(self, split: Split) -> int:
        """At least how many bytes the documents have, where the files are compressed."""
        return sum(
            path.stat().st_size * (COMPRESSION_RATIO if endings(path)[1] else 1)
            for path in self._files[split]
        )

    def documents(self, split: Split) -> Iterator[Document]:
        """Reads the documents as a stream.

        Where bad lines are skipped, so is a damaged compressed file: whole, since what was read
        before the damage may be wrong already.

        Raises:
            UserError: for a damaged file, a file without the key of the scripts, and a bad line
                unless bad lines are skipped.
        """
        self.skipped = 0
        for path in self._files[split]:
            try:
                if not self._is_left_out(path):
                    yield from self._documents(path)
            except (OSError, *DAMAGE) as error:
                raise UserError(f"{path} cannot be read, or is damaged: {error}.") from error

    def _is_left_out(self, path: Path) -> bool:
        if not self._skip_bad:
            return False
        try:
            check_whole(path)
        except DAMAGE as error:
            self.skipped += 1
            logger.warning("%s is damaged, and left out: %s", printable_name(path), error)
            return True
        return False

    def _documents(self, path: Path) -> Iterator[Document]:
        with opened(path) as (stream, compression):
            if compression is not None and compression is not COMPRESSIONS.get(endings(path)[1]):
                logger.warning(
                    "%s is compressed with %s, which its name does not say",
                    printable_name(path),
                    compression.name,
                )
            head = stream.peek(CHUNK)
            if format_of(path, head) == "lines":
                yield from self._lines(path, stream, head)
                return
            self._check_no_keys(path)
            if head.startswith((UTF8_MARK, *UTF16_MARKS)):
                logger.warning(
                    "%s begins with a byte order mark, which stays part of its text",
                    printable_name(path),
                )
            # In one buffer, which becomes the text: long texts are not held twice.
            whole = io.BytesIO()
            shutil.copyfileobj(stream, whole, 2**20)
        yield Document(whole.getvalue())

    def _check_no_keys(self, path: Path) -> None:
        if self._target_key is not None:
            raise UserError(
                f"{path} is text without keys, and data.target_key is {self._target_key}; give "
                "the inputs and the targets in the lines of a .jsonl file."
            )
        if self._script_key is not None:
            raise UserError(
                f"{path} is text without keys, and data.script_key is {self._script_key}; take it "
                "back with --data.script-key None, and name the script of all documents with "
                "--data.script if it is needed."
            )

    def _lines(self, path: Path, stream: BinaryIO, head: bytes) -> Iterator[Document]:
        check_json_lines(path, head)
        if head.startswith(UTF8_MARK):
            stream.read(len(UTF8_MARK))
        for number, line in enumerate(stream, start=1):
            if line.isspace():
                continue
            try:
                document = _document(line, self._text_key, self._script_key, self._target_key)
            except ValueError as error:
                if not self._skip_bad:
                    keys = ["--data.text-key"] + ["--data.script-key"] * bool(self._script_key)
                    keys += ["--data.target-key"] * bool(self._target_key)
                    raise UserError(
                        f"{path}, line {number}: {error}; mend the line, name another key with "
                        f"{' or '.join(keys)}, or skip such lines with --data.skip-bad."
                    ) from error
                self.skipped += 1
                continue
            yield document


def _document(
    line: bytes, text_key: str, script_key: str | None, target_key: str | None
) -> Document:
    """The document in a JSON line, as UTF-8; ValueError says what is wrong with the line."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON ({error})") from error
    text = _utf8(record, text_key)
    script = None if script_key is None else _string(record, script_key)
    return Document(text, script, None if target_key is None else _target(record, target_key))


def _target(record: object, key: str) -> bytes:
    """The target: a string, or the first of a list of right answers."""
    if isinstance(record, dict) and isinstance(record.get(key), list) and record[key]:
        return _utf8({key: record[key][0]}, key)
    return _utf8(record, key)


def _utf8(record: object, key: str) -> bytes:
    try:
        return _string(record, key).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the value of {key!r} has half a surrogate pair") from error


def _string(record: object, key: str) -> str:
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"no key {key!r}")
    if not isinstance(record[key], str):
        raise ValueError(f"the value of {key!r} is not a string")
    return cast(str, record[key])


def _found(patterns: tuple[str, ...], split: Split) -> list[Path]:
    option = "data.files" if split == "train" else f"data.{split}_files"
    found = find_files(patterns, option)
    for path in found:
        check_ending(path, option)
    return found


def _check_disjoint(files: dict[Split, list[Path]]) -> None:
    owner: dict[object, Split] = {}
    for split, paths in files.items():
        for path in paths:
            other = owner.setdefault(identity(path), split)
            if other != split:
                raise UserError(
                    f"{path} is in both the {other} and the {split} files; narrow the patterns."
                )
