"""Digests of users' files, which are stored, so that large files are read once.

A large file of lines has digests of ranges too, which end at lines near the multiples of a size:
text that is added at its end changes the last one alone.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bytelm.core.files import write_whole
from bytelm.core.locks import exclusive
from bytelm.core.places import file_system, is_address, is_address_text
from bytelm.data.copies import address_of
from bytelm.data.progress import TextProgress
from bytelm.data.sources.file_formats import binary, holds_lines

DIGESTS = "contents.json"
"""File of the cache with digests, valid while a file's size, times and inode stay the same."""
RECENT_SECONDS = 2.0
"""A file that has just changed may change again with the same time."""
READ_BYTES = 2**20
STREAMS = 8
"""Objects that are read at a time."""


class LineRange(NamedTuple):
    """Some lines of a file: the bytes from `begin` to `end`, and their hex digest."""

    begin: int
    end: int
    digest: str


class Content(NamedTuple):
    """The hex digest of a file, and its ranges of lines if it is divided."""

    digest: str
    ranges: tuple[LineRange, ...] = ()


def content_digests(paths: Sequence[Path], cache_path: Path | None) -> list[str]:
    """The hex digest of each file, as `contents`."""
    return [content.digest for content in contents(paths, cache_path)]


def contents(
    paths: Sequence[Path],
    cache_path: Path | None,
    range_bytes: int | None = None,
    *,
    divided: bool = True,
) -> list[Content]:
    """The digests of files, stored in the cache if that can be written.

    Args:
        paths: of the files.
        cache_path: of the cache; None = digests are not stored.
        range_bytes: an uncompressed file of lines that is more than twice as large is divided into
            ranges of about this size; None = no file is.
        divided: whether ranges are needed; otherwise they may lack where a digest is stored.

    Raises:
        OSError: for a file that cannot be read.
        UserError: for a large file without a known ending that is not text.
    """
    reading = _Reading(range_bytes, divided)
    known = {} if cache_path is None else _stored(cache_path)
    if cache_path is None or all(reading.known(path, known) for path in paths):
        return reading.contents(paths, known)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            cache_path.mkdir(parents=True, exist_ok=True)
            lock = exclusive(cache_path / f"{DIGESTS}.lock", "read files for their digests")
            stack.enter_context(lock)
        # Another process may have read the files while this one waited.
        known, address = _stored(cache_path), address_of(cache_path)
        if address is not None:
            known = _stored(address) | known
        found = reading.contents(paths, known)
        still_there = {
            name: entry
            for name, entry in known.items()
            if is_address_text(name) or os.path.exists(name)
        }
        with contextlib.suppress(OSError):
            write_whole(cache_path / DIGESTS, json.dumps(still_there))
            if address is not None:
                far = {name: known[name] for name in known if is_address_text(name)}
                write_whole(address / DIGESTS, json.dumps(far))
    return found


def has_range(path: Path, wanted: LineRange, cache_path: Path | None) -> bool:
    """Whether a file still has a range of `contents`; the range is read if the file changed."""
    known = {} if cache_path is None else _stored(cache_path)
    content = _known(path, known, None)
    if content is not None and wanted in content.ranges:
        return True
    hasher, left = _hasher(), wanted.end - wanted.begin
    with binary(path) as file:
        file.seek(wanted.begin)
        while left > 0 and (block := file.read(min(left, READ_BYTES))):
            hasher.update(block)
            left -= len(block)
    return hasher.hexdigest() == wanted.digest


def _stored(cache_path: Path) -> dict[str, list]:
    try:
        known = json.loads((cache_path / DIGESTS).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _known(path: Path, known: Mapping[str, list], range_bytes: int | None) -> Content | None:
    """What is stored of a file, if it is still valid; None as `range_bytes` = any ranges."""
    match known.get(str(path.resolve())):
        case [state, str(digest)] if state == _state(path):
            return Content(digest)
        case [state, str(digest), int(size), list(ranges)] if state == _state(path):
            if range_bytes in (size, None):
                return Content(digest, tuple(LineRange(*each) for each in ranges))
            return Content(digest)
    return None


def _state(path: Path) -> list[Any]:
    """What changes when a file does; of an object what its store says of it."""
    if is_address(path):
        system, name = file_system(path)
        return [system.ukey(name)]
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


class _Reading:
    """Reads files for their digests; arguments as those of `contents`."""

    def __init__(self, range_bytes: int | None, divided: bool) -> None:
        self._range_bytes, self._divided = range_bytes, divided

    def known(self, path: Path, known: Mapping[str, list]) -> Content | None:
        """What is stored of a file, if that is enough."""
        content = _known(path, known, self._range_bytes)
        if content is None or content.ranges or not self._divided:
            return content
        return None if self._is_divided(path) else content

    def contents(self, paths: Sequence[Path], known: dict[str, list]) -> list[Content]:
        """The digests; new ones are added to `known`."""
        found = {path: content for path in paths if (content := self.known(path, known))}
        missing = [path for path in paths if path not in found]
        total = sum(path.stat().st_size for path in missing)
        with TextProgress(f"reading {len(missing)} files for their digests", total) as progress:
            # A store gives one reader a part of what it gives several.
            far = [path for path in missing if is_address(path)]
            with ThreadPoolExecutor(STREAMS) as pool:
                reads = pool.map(lambda path: self._whole(path, progress), far)
                whole = dict(zip(far, reads, strict=True))
            for path in missing:
                found[path], entry = whole.get(path) or self._whole(path, progress)
                if entry is not None:
                    known[str(path.resolve())] = entry
        return [found[path] for path in paths]

    def _whole(self, path: Path, progress: TextProgress) -> tuple[Content, list | None]:
        """What a file holds, and the entry to store; None if it may be changing."""
        state, content = _state(path), self._read(path, progress)
        if _state(path) != state or _is_recent(path):
            return content, None
        ranges = [self._range_bytes, content.ranges] if content.ranges else []
        return content, [state, content.digest, *ranges]

    def _is_divided(self, path: Path) -> bool:
        size = self._range_bytes
        return size is not None and path.stat().st_size > 2 * size and holds_lines(path)

    def _read(self, path: Path, progress: TextProgress) -> Content:
        blocks, whole = _blocks(path, progress), _hasher()
        if not self._is_divided(path):
            for block in blocks:
                whole.update(block)
            return Content(whole.hexdigest())
        assert self._range_bytes is not None
        ranges = _Ranges(self._range_bytes)
        with ThreadPoolExecutor(1) as pool:
            for block in blocks:
                hashing = pool.submit(whole.update, block)
                ranges.update(block)
                hashing.result()
        return Content(whole.hexdigest(), ranges.all())


def _blocks(path: Path, progress: TextProgress) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            yield block
            progress.advance(len(block))


class _Ranges:
    """Divides text that comes in blocks: a range has the lines that begin in `size` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._begin = self._position = 0
        self._hasher = _hasher()
        self._found: list[LineRange] = []

    def update(self, block: bytes) -> None:
        view, used = memoryview(block), 0
        while True:
            edge = (self._begin // self._size + 1) * self._size
            end = block.find(b"\n", max(used, edge - 1 - self._position)) + 1
            if not end:
                break
            self._hasher.update(view[used:end])
            self._finish(self._position + end)
            used = end
        self._hasher.update(view[used:])
        self._position += len(block)

    def _finish(self, end: int) -> None:
        self._found.append(LineRange(self._begin, end, self._hasher.hexdigest()))
        self._begin, self._hasher = end, _hasher()

    def all(self) -> tuple[LineRange, ...]:
        """The ranges of the whole text."""
        if self._position > self._begin:
            self._finish(self._position)
        return tuple(self._found)


def _hasher() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _is_recent(path: Path) -> bool:
    """Whether a file may change again without a sign of it; stores number or date each version."""
    if is_address(path):
        return False
    stat = path.stat()
    return time.time() - max(stat.st_mtime, stat.st_ctime) <= RECENT_SECONDS
