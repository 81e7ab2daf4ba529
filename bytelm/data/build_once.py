"""Directories of the cache: built once, by one process, and complete or not there."""

import errno
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bytelm.errors import UserError

SUMMARY = "summary.json"

logger = logging.getLogger(__name__)


def is_complete(directory: Path) -> bool:
    """Whether the files are all there, at the lengths that they were written with."""
    try:
        sizes = json.loads((directory / SUMMARY).read_text())["sizes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def build_once(
    directory: Path, content: str, size: float, build: Callable[[Path], dict[str, Any]]
) -> None:
    """Fills a directory, unless it is complete or another process fills it now.

    Args:
        directory: where.
        content: what it will hold, for messages.
        size: about how many bytes that is.
        build: writes the files into a directory beside it, and returns the summary.

    Raises:
        UserError: for too little room on the disk, or a directory that cannot be written.
    """
    root = directory.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.with_name(directory.name + ".lock"))
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            logger.warning("waiting for another process to write %s", content)
            held = lock.acquire()
        with held:
            if not is_complete(directory):
                if shutil.disk_usage(root).free < size:
                    raise _no_room(root, content)
                logger.info("writing %s into %s", content, directory)
                _build(directory, build)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_room(root, content) from error
        raise UserError(f"cannot write {content} into {root}: {error}.") from error


def _build(directory: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    """Writes beside `directory`, and renames when all is written. The caller holds the lock."""
    partial = directory.with_name(directory.name + ".partial")
    for leftover in (partial, directory):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        summary = build(partial)
        summary["sizes"] = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        (partial / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _no_room(root: Path, content: str) -> UserError:
    return UserError(
        f"the disk of {root} has no room for {content}; put the cache elsewhere with "
        "--data.cache-dir, or read a TFDS dataset unpacked with --data.read stream."
    )
