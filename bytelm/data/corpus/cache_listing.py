"""The command `bytelm data cache`: lists, verifies and removes entries of the cache."""

import contextlib
import datetime
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bytelm.core.errors import UserError
from bytelm.core.locks import is_locked, unused
from bytelm.core.terminal_text import number_of, printable_name, say
from bytelm.data.corpus.entries import (
    LOCK_ENDING,
    PARTIAL_ENDING,
    SUMMARY,
    damaged_files,
    read_summary,
)
from bytelm.data.corpus.input_shards import SHARDS
from bytelm.data.sources.distinct import FOLDER as DOCUMENTS
from bytelm.data.sources.python_library import PREPARED, PREPARED_LOCK

KINDS = {
    "packed": "text",
    SHARDS: "shards of text",
    DOCUMENTS: "digests of documents",
    "tokens": "tokens",
    "boundaries": "pieces",
    "entropies": "entropies",
    PREPARED: "python_stdlib",
}
"""The folders of the cache, and names for their entries."""
DAY = 86400.0


@dataclass(frozen=True)
class CacheEntry:
    """One directory of the cache."""

    name: str
    """Path in the cache."""
    directory: Path
    content: str
    size: int
    """Bytes of its files; a file that is in several entries counts in parts that add up to it."""
    last_used: float
    """Seconds since the epoch."""
    state: str
    """`complete`, `in use`, `being written`, or `not complete`, which is never read."""


def cache_entries(cache_path: Path) -> list[CacheEntry]:
    """All entries, the largest first."""
    found = [
        _entry(kind, directory)
        for kind in KINDS
        for directory in sorted((cache_path / kind).glob("*"))
        if directory.is_dir()
    ]
    return sorted(found, key=lambda entry: -entry.size)


def _entry(kind: str, directory: Path) -> CacheEntry:
    summary, newest, size = directory / SUMMARY, 0.0, 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):  # another process may remove it
            stat = path.stat()
            size, newest = size + stat.st_size // max(stat.st_nlink, 1), max(newest, stat.st_mtime)
    with contextlib.suppress(OSError):
        newest = summary.stat().st_mtime
    writing, using = map(is_locked, _locks(directory))
    if kind == PREPARED or read_summary(directory) is not None:
        state = "in use" if using else "complete"
    else:
        state = "being written" if writing else "not complete"
    name, content = f"{kind}/{directory.name}", _content(kind, summary)
    return CacheEntry(name, directory, content, size, newest, state)


def _locks(directory: Path) -> tuple[Path, Path]:
    """The files that processes lock to write an entry, and to use it."""
    if directory.parent.name == PREPARED:
        return directory / PREPARED_LOCK, directory / PREPARED_LOCK
    name = directory.name.removesuffix(PARTIAL_ENDING)
    return directory.with_name(name + LOCK_ENDING), directory / SUMMARY


def _content(kind: str, summary: Path) -> str:
    """From the summary, if that can be read."""
    try:
        saved = json.loads(summary.read_text())
        split = saved.get("settings", {}).get("split")
        where = f" ({split})" if split else ""
        return f"{KINDS[kind]} of {saved['name']}{where}"
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return KINDS[kind]


def remove_entry(entry: CacheEntry) -> bool:
    """Removes an entry unless a process writes or uses it; returns whether it did."""
    writing, using = _locks(entry.directory)
    with contextlib.ExitStack() as stack:
        if not all([stack.enter_context(unused(path)) for path in {writing, using}]):
            return False
        # Renamed first, so that other processes see all of it or nothing.
        removed = entry.directory.with_name(f".{entry.directory.name}.{os.getpid()}.removed")
        entry.directory.rename(removed)
        shutil.rmtree(removed)
        writing.unlink(missing_ok=True)
    return True


def manage_cache(
    cache_path: Path, *, verify: bool, remove: Sequence[str], remove_unused: float | None
) -> int:
    """Removes and verifies entries, then lists the cache; returns the exit status.

    Args:
        cache_path: of the cache.
        verify: read every entry; damaged ones are rebuilt when next needed.
        remove: unique beginnings of names of entries, or `shards/` for all shards.
        remove_unused: remove entries not used for this many days.
    """
    entries = cache_entries(cache_path)
    chosen = [entry for name in remove for entry in _named(name, entries)]
    if remove_unused is not None:
        latest = time.time() - remove_unused * DAY
        chosen += [each for each in entries if each.last_used <= latest and each not in chosen]
    status = 0
    for entry in chosen:
        if remove_entry(entry):
            say(f"removed {_line(entry)}")
        else:
            status = 1
            say(f"kept, since it is in use: {_line(entry)}")
    for entry in cache_entries(cache_path) if verify else ():
        damaged = _damaged(entry)
        if damaged:
            status = 1
            say(f"damaged ({', '.join(damaged)}), and rebuilt when needed: {_line(entry)}")
    entries = cache_entries(cache_path)
    shards = [entry for entry in entries if _is_shard(entry) and entry.state == "complete"]
    for entry in entries:
        if entry not in shards:
            say(_line(entry))
    if shards:  # there may be thousands
        size, last = sum(each.size for each in shards), max(each.last_used for each in shards)
        content = f"{number_of(len(shards), 'shard')} of text"
        directory = shards[0].directory.parent
        say(_line(CacheEntry(f"{SHARDS}/", directory, content, size, last, "complete")))
    total = sum(entry.size for entry in entries)
    say(f"{len(entries)} entries, {total / 1e6:,.1f} MB in {printable_name(cache_path)}")
    return status


def _damaged(entry: CacheEntry) -> list[str]:
    """The damaged files of an entry, which then counts as not complete."""
    if entry.name.startswith(PREPARED) or entry.state not in ("complete", "in use"):
        return []
    damaged = damaged_files(entry.directory)
    if damaged:
        (entry.directory / SUMMARY).unlink(missing_ok=True)
    return damaged


def _is_shard(entry: CacheEntry) -> bool:
    return entry.name.startswith(f"{SHARDS}/")


def _named(name: str, entries: Sequence[CacheEntry]) -> list[CacheEntry]:
    if name == f"{SHARDS}/":
        return list(filter(_is_shard, entries))
    found = [entry for entry in entries if entry.name.startswith(name)]
    exact = [entry for entry in found if entry.name == name]
    if len(exact or found) != 1:
        many = f"{len(found)} entries begin with {name!r}" if found else f"no entry is {name!r}"
        raise UserError(f"{many}; `bytelm data cache` lists their names.")
    return exact or found


def _line(entry: CacheEntry) -> str:
    day = datetime.date.fromtimestamp(entry.last_used).isoformat()
    about = printable_name(entry.content)
    return f"{entry.size / 1e6:>10,.1f} MB  {day}  {entry.state:13}  {entry.name}  {about}"
