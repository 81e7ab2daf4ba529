"""Directories of the cache: built once, by one process, and either complete or absent."""

import contextlib
import errno
import logging
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.locks import Share, exclusive
from bytelm.data.corpus.blocks import (
    DIGESTS,
    SUMMARY,
    CheckedArray,
    DamagedError,
    file_digests,
    read_summary,
    seal,
)

LOCK_ENDING = ".lock"
PARTIAL_ENDING = ".partial"
PROGRESS = "progress.json"
"""File of a partial directory, which another process can continue: what is written so far."""

logger = logging.getLogger(__name__)


class Entry:
    """A complete directory of the cache, which is not removed while this object exists.

    Attributes:
        directory: its path.
        summary: the summary that `build` returned.
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
        self._digests = file_digests(directory, summary)

    def array(self, name: str, dtype: Any) -> CheckedArray:
        """The array in a file, whose blocks are checked when first read."""
        return CheckedArray(self.directory / name, dtype, self._digests[name])

    def checked(self, name: str, dtype: Any) -> np.ndarray:
        """The array in a small file, checked now; `DamagedError` if it is damaged."""
        return self.array(name, dtype)[:]


T = TypeVar("T")


def open_or_build(open_entry: Callable[[], T], build: Callable[[], None]) -> T:
    """Opens an entry of the cache, and builds it if it is missing or damaged.

    Args:
        open_entry: opens it; raises FileNotFoundError if it is not complete.
        build: builds it with `build_once`.

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


def is_complete(directory: Path) -> bool:
    """Whether all files exist and have their sizes."""
    return read_summary(directory) is not None and (directory / DIGESTS).is_file()


def build_once(
    directory: Path, content: str, size: float, build: Callable[[Path], dict[str, Any]]
) -> None:
    """Fills a directory, unless it is complete; waits if another process is filling it.

    Args:
        directory: its path.
        content: its content, for messages.
        size: approximate size in bytes.
        build: writes the files into a directory next to it, and returns the summary; continues
            those of a stopped process if there is a PROGRESS.

    Raises:
        UserError: for a full disk, or a directory that cannot be written.
    """
    root = directory.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = directory.with_name(directory.name + LOCK_ENDING)
        with exclusive(lock, f"write {content}") as held:
            if is_complete(directory):
                return
            if shutil.disk_usage(root).free < size:
                raise _no_room(root, content)
            logger.info("writing %s into %s", content, directory)
            # Without a lock, another process may write at the same time.
            owner = "" if held else f".{socket.gethostname()}.{os.getpid()}"
            partial = directory.with_name(directory.name + owner + PARTIAL_ENDING)
            if partial.exists() and not (partial / PROGRESS).exists():
                logger.warning("writing %s was interrupted last time; it starts over", content)
                shutil.rmtree(partial)
            shutil.rmtree(directory, ignore_errors=True)
            _build(directory, partial, build)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_room(root, content) from error
        raise UserError(f"cannot write {content} into {root}: {error}.") from error


def _build(directory: Path, partial: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    """Writes into `partial`, then renames it."""
    partial.mkdir(exist_ok=True)
    try:
        summary = build(partial)
        (partial / PROGRESS).unlink(missing_ok=True)
        seal(partial, summary)
        partial.rename(directory)
    except BaseException as error:
        # If the process is stopped, the next one can continue.
        if isinstance(error, (UserError, OSError)) or not (partial / PROGRESS).exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _no_room(root: Path, content: str) -> UserError:
    return UserError(
        f"the disk of {root} has no room for {content}; put the cache elsewhere with "
        "--data.cache-dir, or read a TFDS dataset unpacked with --data.read stream."
    )
