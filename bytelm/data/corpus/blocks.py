"""Digests of the blocks of cache files; each block is checked when it is first read."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.core.errors import UserError

SUMMARY = "summary.json"
DIGESTS = "digests.bin"
"""The digests of all blocks, files in the order of their names."""
BLOCK_BYTES = 2**18
"""Small, so that reading a random row reads little else."""
DIGEST_BYTES = 16


class DamagedError(UserError):
    """The file `path` of the cache does not hold what was written."""

    def __init__(self, path: Path, where: str = "") -> None:
        super().__init__(
            f"{path} is damaged{where}: it does not hold what was written; give the same command "
            "once more (--resume for a run), which rebuilds it, and check the disk."
        )
        self.path = path
        self._where = where

    def __reduce__(self) -> tuple[Any, ...]:
        """Worker processes send it by pickling."""
        return DamagedError, (self.path, self._where)


def digest_of(content: bytes | memoryview) -> bytes:
    """A hash of `DIGEST_BYTES` bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def block_digests(path: Path, first: int = 0) -> bytes:
    """The digests of a file's blocks from block `first` on, concatenated."""
    with path.open("rb") as file:
        file.seek(first * BLOCK_BYTES)
        return b"".join(digest_of(block) for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def seal(directory: Path, summary: dict[str, Any]) -> None:
    """Writes the summary of a directory, with the sizes and digests of its files."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    digests = b"".join(map(block_digests, files))
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


def file_digests(directory: Path, summary: dict[str, Any]) -> dict[str, bytes]:
    """The digests of the blocks of each file; `DamagedError` if they are damaged."""
    content = (directory / DIGESTS).read_bytes()
    if digest_of(content).hex() != summary["digests"]:
        raise _damaged(directory / DIGESTS)
    found, position = {}, 0
    for name, size in sorted(summary["sizes"].items()):
        end = position + DIGEST_BYTES * -(-size // BLOCK_BYTES)
        found[name], position = content[position:end], end
    return found


def damaged_files(directory: Path) -> list[str]:
    """The names of damaged files; reads all files."""
    summary = read_summary(directory)
    if summary is None:
        return [SUMMARY]
    try:
        digests = file_digests(directory, summary)
    except (OSError, DamagedError):
        return [DIGESTS]
    return [name for name, wanted in digests.items() if block_digests(directory / name) != wanted]


class CheckedArray:
    """A one-dimensional array in a memory-mapped file, whose blocks are checked when first read.

    Indexing gives plain arrays: views for slices, copies for arrays of indices.

    Args:
        path: the file.
        dtype: of the array.
        digests: of the file's blocks.
    """

    def __init__(self, path: Path, dtype: Any, digests: bytes) -> None:
        self._path = path
        self._digests = digests
        # Slices of plain arrays are made several times faster than slices of np.memmap.
        self._array = np.asarray(np.memmap(path, dtype, mode="r"))
        self._content = self._array.view(np.uint8)
        self._unchecked = bytearray(b"\1" * (len(digests) // DIGEST_BYTES))

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, indices: slice | np.ndarray) -> np.ndarray:
        if isinstance(indices, slice):
            first, last, step = indices.indices(len(self._array))
            if step != 1:
                raise IndexError("a checked array has slices of step 1")
            if first < last:
                self._check(first, last)
        elif indices.size:
            size = self._array.itemsize
            for block in np.unique(indices.astype(np.int64) * size // BLOCK_BYTES).tolist():
                self._check_block(block)
        return self._array[indices]

    def tobytes(self) -> bytes:
        return self[:].tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype, copy=copy)

    def _check(self, first: int, last: int) -> None:
        """Checks the blocks of elements `first` to `last`."""
        size = self._array.itemsize
        end = (last * size - 1) // BLOCK_BYTES + 1
        block = self._unchecked.find(1, first * size // BLOCK_BYTES, end)
        while block >= 0:
            self._check_block(block)
            block = self._unchecked.find(1, block + 1, end)

    def _check_block(self, block: int) -> None:
        if self._unchecked[block]:
            content = self._content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES].data
            wanted = self._digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES]
            if digest_of(content) != wanted:
                begin = block * BLOCK_BYTES
                raise _damaged(self._path, f" at bytes {begin} to {begin + len(content)}")
            self._unchecked[block] = 0


def _damaged(path: Path, where: str = "") -> DamagedError:
    """The error of a damaged file; marks its directory as not complete."""
    with contextlib.suppress(OSError):
        (path.parent / SUMMARY).unlink()
    return DamagedError(path, where)
