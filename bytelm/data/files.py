"""Documents in local files: .txt holds one, .jsonl one a line, either may be compressed."""

import glob
import gzip
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from bytelm.data.config import SourceConfig, Split
from bytelm.data.document import Document
from bytelm.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMATS = (".txt", ".jsonl")
OPENERS: dict[str, Callable[..., object]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".zst": zstd.open,
}
COMPRESSION_RATIO = 2
"""The least that text is made smaller by, to tell early when the disk has surely no room."""
READ_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error, zstd.ZstdError)


class FilesReader:
    """Documents of local files, in the order of their paths and lines.

    Raises:
        UserError: for a pattern that matches nothing, a file of another kind, and a file that
            two splits share.
    """

    def __init__(self, config: SourceConfig) -> None:
        patterns: dict[Split, tuple[str, ...]] = {
            "train": config.files,
            "validation": config.validation_files,
            "test": config.test_files,
        }
        self.name = Path(config.files[0]).name
        self.skipped = 0
        self._text_key = config.text_key or "text"
        self._script_key = config.script_key
        self._target_key = config.target_key
        self._skip_bad = config.skip_bad
        self._files = {split: _matches(globs, split) for split, globs in patterns.items() if globs}
        _check_disjoint(self._files)

    @property
    def own_splits(self) -> frozenset[Split]:
        """The splits that have files of their own."""
        return frozenset(self._files)

    @property
    def settings(self) -> dict[str, object]:
        """What of the config decides which documents are read, besides the files."""
        settings: dict[str, object] = {"text_key": self._text_key, "skip_bad": self._skip_bad}
        optional = {"script_key": self._script_key, "target_key": self._target_key}
        return settings | {name: key for name, key in optional.items() if key is not None}

    def inputs(self, split: Split) -> object:
        """Names, sizes and modification times of the files: a JSON value that changes with them."""
        stats = [(str(path.resolve()), path.stat()) for path in self._files[split]]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def size(self, split: Split) -> int:
        """At least how many bytes the documents have, where the files are compressed."""
        return sum(
            path.stat().st_size * (COMPRESSION_RATIO if path.suffix in OPENERS else 1)
            for path in self._files[split]
        )

    def documents(self, split: Split) -> Iterator[Document]:
        """Reads the documents as a stream.

        Raises:
            UserError: for a damaged file, a file without the key of the scripts, and a bad line
                unless bad lines are skipped.
        """
        self.skipped = 0
        for path in self._files[split]:
            try:
                with _open(path) as stream:
                    if _format(path) == ".txt":
                        self._check_no_keys(path)
                        yield Document(stream.read())
                    else:
                        yield from self._lines(path, stream)
            except READ_ERRORS as error:
                raise UserError(f"{path} cannot be read, or is damaged: {error}.") from error

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

    def _lines(self, path: Path, stream: BinaryIO) -> Iterator[Document]:
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


def _matches(patterns: tuple[str, ...], split: Split) -> list[Path]:
    flag = "data.files" if split == "train" else f"data.{split}_files"
    found: set[Path] = set()
    for pattern in patterns:
        names = glob.glob(str(Path(pattern).expanduser()), recursive=True)
        files = {path for path in map(Path, names) if path.is_file()}
        if not files:
            raise UserError(f"{flag}: no file matches {pattern!r}; check the path and the quotes.")
        found |= files
    for path in sorted(found):
        if _format(path) not in FORMATS:
            raise UserError(
                f"{flag}: {path} ends in neither .txt nor .jsonl (with .gz, .xz or .zst behind "
                "it or not); narrow the pattern or rename the file."
            )
    return sorted(found)


def _check_disjoint(files: dict[Split, list[Path]]) -> None:
    owner: dict[Path, Split] = {}
    for split, paths in files.items():
        for path in paths:
            other = owner.setdefault(path.resolve(), split)
            if other != split:
                raise UserError(
                    f"{path} is in both the {other} and the {split} files; narrow the patterns."
                )


def _format(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in OPENERS else path).suffix


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, OPENERS.get(path.suffix, open)(path, "rb"))
