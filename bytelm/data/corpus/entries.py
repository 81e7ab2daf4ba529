"""Entries of the cache: directories that are complete or absent, and checked when they are read.

One process builds an entry, and others wait for it. Each block of a file has a digest, and is
checked when it is first read. A damaged entry counts as absent.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.locks import Share, exclusive
from bytelm.data.copies import fetch_entry, send_entry

SUMMARY = "summary.json"
DIGESTS = "digests.bin"
"""The digests of all blocks, files in the order of their names."""
PROGRESS = "progress.json"
"""File of a partial directory, which another process can continue: what is written so far."""
LOCK_ENDING = ".lock"
PARTIAL_ENDING = ".partial"
BLOCK_BYTES = 2**18
"""Small, so that reading a random row reads little else."""
DIGEST_BYTES = 16

T = TypeVar("T")

logger = logging.getLogger(__name__)


class DamagedError(UserError):
    """The file `path` of the cache does not hold what was written."""

    def __init__(self, path: Path, where: str = "") -> None:
        super().__init__(path, where)  # what worker processes send
        self.path = path
        self._where = where

    def __str__(self) -> str:
        return (
            f"{self.path} is damaged{self._where}: it does not hold what was written; give the "
            "same command once more (--resume for a run), which rebuilds it, and check the disk."
        )


def digest_of(content: bytes | memoryview) -> bytes:
    """A hash of `DIGEST_BYTES` bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def block_digests(path: Path, first: int = 0) -> bytes:
    """The digests of a file's blocks from block `first` on, concatenated."""
    with path.open("rb") as file:
        file.seek(first * BLOCK_BYTES)
        return b"".join(digest_of(block) for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def seal(
    directory: Path, summary: dict[str, Any], known: Mapping[str, bytes] | None = None
) -> None:
    """Writes the summary of a directory, with the sizes and digests of its files.

    `known` has the digests of files that need not be read again, by name.
    """
    known, files = known or {}, sorted(path for path in directory.iterdir() if path.is_file())
    digests = b"".join(known.get(path.name) or block_digests(path) for path in files)
    (directory / DIGESTS).write_bytes(digests)
    summary = {
        **summary,
        "sizes": {path.name: path.stat().st_size for path in files},
        "digests": digest_of(digests).hex(),
    }
    summary["check"] = _check(summary)
    (directory / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


def _check(summary: dict[str, Any]) -> str:
    rest = {name: value for name, value in summary.items() if name != "check"}
    return digest_of(json.dumps(rest, sort_keys=True).encode()).hex()


def read_summary(directory: Path) -> dict[str, Any] | None:
    """The summary; None if it is damaged, or a file has another size."""
    try:
        summary = json.loads((directory / SUMMARY).read_text())
        intact = summary["check"] == _check(summary) and all(
            (directory / name).stat().st_size == size for name, size in summary["sizes"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return summary if intact else None


def is_complete(directory: Path) -> bool:
    """Whether all files exist and have their sizes."""
    return read_summary(directory) is not None and (directory / DIGESTS).is_file()


def damaged_files(directory: Path) -> list[str]:
    """The names of damaged files; reads all files."""
    summary = read_summary(directory)
    if summary is None:
        return [SUMMARY]
    try:
        digests = _file_digests(directory, summary)
    except (OSError, DamagedError):
        return [DIGESTS]
    return [name for name, wanted in digests.items() if block_digests(directory / name) != wanted]


def _file_digests(directory: Path, summary: dict[str, Any]) -> dict[str, bytes]:
    """The digests of the blocks of each file."""
    content = (directory / DIGESTS).read_bytes()
    if digest_of(content).hex() != summary["digests"]:
        raise _damaged(directory / DIGESTS)
    found, position = {}, 0
    for name, size in sorted(summary["sizes"].items()):
        end = position + DIGEST_BYTES * -(-size // BLOCK_BYTES)
        found[name], position = content[position:end], end
    return found


def _damaged(path: Path, where: str = "") -> DamagedError:
    """The error of a damaged file; marks its directory as not complete."""
    with contextlib.suppress(OSError):
        (path.parent / SUMMARY).unlink()
    return DamagedError(path, where)


class CheckedArray:
    """A one-dimensional array in a memory-mapped file; `digests` are those of the file's blocks.

    Indexing gives plain arrays: views for slices of step 1, copies for arrays of indices.
    """

    def __init__(self, path: Path, dtype: Any, digests: bytes) -> None:
        self._path = path
        self._digests = digests
        # Slices of plain arrays are made several times faster than slices of np.memmap.
        self._array = np.asarray(np.memmap(path, dtype, mode="r"))
        self._content = self._array.view(np.uint8)
        self.unchecked = bytearray(b"\1" * (len(digests) // DIGEST_BYTES))
        """1 for each block that was not read yet."""

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, indices: slice | np.ndarray) -> np.ndarray:
        size = self._array.itemsize
        if isinstance(indices, slice):
            first, last, _ = indices.indices(len(self._array))
            end = (last * size - 1) // BLOCK_BYTES + 1 if first < last else 0
            block = self.unchecked.find(1, first * size // BLOCK_BYTES, end)
            while block >= 0:
                self._check_block(block)
                block = self.unchecked.find(1, block + 1, end)
        else:
            for block in np.unique(indices.astype(np.int64) * size // BLOCK_BYTES).tolist():
                self._check_block(block)
        return self._array[indices]

    def tobytes(self) -> bytes:
        return self[:].tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype, copy=copy)

    def _check_block(self, block: int) -> None:
        if self.unchecked[block]:
            content = self._content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES].data
            wanted = self._digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES]
            if digest_of(content) != wanted:
                begin = block * BLOCK_BYTES
                raise _damaged(self._path, f" at bytes {begin} to {begin + len(content)}")
            self.unchecked[block] = 0


class Entry:
    """A complete directory of the cache, which is not removed while this object exists.

    `summary` is what its builder returned.
    """

    def __init__(self, directory: Path) -> None:
        """Opens a directory.

        Raises:
            FileNotFoundError: if it is missing or not complete.
            DamagedError: if its digests are damaged.
        """
        self._use = Share(directory / SUMMARY)
        summary = read_summary(directory)
        if summary is None:
            raise FileNotFoundError(errno.ENOENT, "not complete", str(directory))
        with contextlib.suppress(OSError):  # time of last use; it may be another user's file
            os.utime(directory / SUMMARY)
        self.directory = directory
        self.summary = summary
        self.digests = _file_digests(directory, summary)
        """Of the blocks of each file, by its name."""

    def array(self, name: str, dtype: Any) -> CheckedArray:
        """The array in a file, whose blocks are checked when first read."""
        return CheckedArray(self.directory / name, dtype, self.digests[name])

    def checked(self, name: str, dtype: Any) -> np.ndarray:
        """The array in a small file, checked now; `DamagedError` if it is damaged."""
        return self.array(name, dtype)[:]


def open_or_build(open_entry: Callable[[], T], build: Callable[[], None]) -> T:
    """Opens an entry with `open_entry`, after `build` if it is missing or damaged.

    Raises:
        DamagedError: for an entry that stays damaged.
    """
    was_damaged = False
    while True:
        try:
            return open_entry()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except DamagedError as error:
            if was_damaged:
                raise
            was_damaged = True
            logger.warning("%s is damaged, and is rebuilt", error.path)
        # Another process may remove it again before it is opened.
        build()


def build_once(
    directory: Path,
    content: str,
    size: float,
    build: Callable[[Path], dict[str, Any]],
    digests: Mapping[str, bytes] | None = None,
) -> None:
    """Fills a directory, unless it is complete; waits if another process is filling it.

    Args:
        directory: its path.
        content: its content, for messages.
        size: approximate size in bytes.
        build: writes the files into a directory next to it, and returns the summary; continues
            those of a stopped process if there is a PROGRESS.
        digests: of the blocks of files, by name; `build` may add those that it knows, and other
            files are read once more.

    Raises:
        UserError: for a full disk, or a directory that cannot be written.
    """
    root = directory.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = directory.with_name(directory.name + LOCK_ENDING)
        with exclusive(lock, f"write {content}") as held:
            if is_complete(directory) or _fetched(directory):
                return
            check_room(root, content, size)
            logger.info("writing %s into %s", content, directory)
            # Without a lock, another process may write at the same time.
            owner = "" if held else f".{socket.gethostname()}.{os.getpid()}"
            partial = directory.with_name(directory.name + owner + PARTIAL_ENDING)
            if partial.exists() and not (partial / PROGRESS).exists():
                logger.warning("writing %s was interrupted last time; it starts over", content)
                shutil.rmtree(partial)
            shutil.rmtree(directory, ignore_errors=True)
            _build(directory, partial, build, digests)
            send_entry(directory, SUMMARY)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_room(root, content) from error
        raise UserError(f"cannot write {content} into {root}: {error}.") from error


def _fetched(directory: Path) -> bool:
    """Fetches an entry from the address of its cache, unless its copy is damaged or missing."""
    partial = directory.with_name(f"{directory.name}.fetched{PARTIAL_ENDING}")
    if not fetch_entry(directory, partial, SUMMARY):
        return False
    if damaged := damaged_files(partial):
        logger.warning("the copy of %s is damaged (%s), and is rebuilt", directory, damaged[0])
        shutil.rmtree(partial)
        return False
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return True


def _build(
    directory: Path,
    partial: Path,
    build: Callable[[Path], dict[str, Any]],
    digests: Mapping[str, bytes] | None,
) -> None:
    """Writes into `partial`, then renames it."""
    partial.mkdir(exist_ok=True)
    try:
        summary = build(partial)
        (partial / PROGRESS).unlink(missing_ok=True)
        seal(partial, summary, digests)
        partial.rename(directory)
    except BaseException as error:
        # If the process is stopped, the next one can continue.
        if isinstance(error, (UserError, OSError)) or not (partial / PROGRESS).exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def check_room(root: Path, content: str, size: float) -> None:
    """UserError if the disk of a folder has less than `size` bytes left."""
    nearest = next((each for each in (root, *root.absolute().parents) if each.exists()), root)
    if shutil.disk_usage(nearest).free < size:
        raise _no_room(root, content)


def _no_room(root: Path, content: str) -> UserError:
    return UserError(
        f"the disk of {root} has no room for {content}; put the cache elsewhere with "
        "--data.cache-dir, or read a TFDS dataset unpacked with --data.read stream."
    )
