"""Digests of users' files, stored so that large files are read once."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from bytelm.core.files import write_whole
from bytelm.core.locks import exclusive
from bytelm.data.progress import TextProgress

REMEMBERED = "contents.json"
"""File of the cache with digests, valid while a file's size, times and inode stay the same."""
RECENT_SECONDS = 2.0
"""A file that has just changed may change again with the same time."""
READ_BYTES = 2**20


def content_digests(paths: Sequence[Path], cache_path: Path | None) -> list[str]:
    """The hex digest of the content of each file.

    Args:
        paths: of the files.
        cache_path: directory in which digests are stored; None, or one that cannot be written, to
            store none.

    Raises:
        OSError: for a file that cannot be read.
    """
    known = {} if cache_path is None else _remembered(cache_path)
    if cache_path is None or all(_known(path, known) for path in paths):
        return _digests(paths, known)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            cache_path.mkdir(parents=True, exist_ok=True)
            lock = exclusive(cache_path / f"{REMEMBERED}.lock", "read files for their digests")
            stack.enter_context(lock)
        # Another process may have read the files while this one waited.
        known = _remembered(cache_path)
        digests = _digests(paths, known)
        still_there = {name: entry for name, entry in known.items() if os.path.exists(name)}
        with contextlib.suppress(OSError):
            write_whole(cache_path / REMEMBERED, json.dumps(still_there))
    return digests


def _remembered(cache_path: Path) -> dict[str, list]:
    try:
        known = json.loads((cache_path / REMEMBERED).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _known(path: Path, known: dict[str, list]) -> str | None:
    """The stored digest of a file, if it is still valid."""
    entry = known.get(str(path.resolve()))
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)):
        return None
    return entry[1] if entry[0] == _state(path.stat()) else None


def _state(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _digests(paths: Sequence[Path], known: dict[str, list]) -> list[str]:
    """The digests; new ones are added to `known`."""
    found = {path: digest for path in paths if (digest := _known(path, known))}
    missing = [path for path in paths if path not in found]
    total = sum(path.stat().st_size for path in missing)
    with TextProgress(f"reading {len(missing)} files for their digests", total) as progress:
        for path in missing:
            hasher = hashlib.blake2b(digest_size=16)
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                while block := file.read(READ_BYTES):
                    hasher.update(block)
                    progress.advance(len(block))
            found[path] = hasher.hexdigest()
            if time.time() - max(stat.st_mtime, stat.st_ctime) > RECENT_SECONDS:
                known[str(path.resolve())] = [_state(stat), found[path]]
    return [found[path] for path in paths]
