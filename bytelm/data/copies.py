"""Copies of the cache's entries at an address, from which other machines fetch them.

A cache whose address is a bucket's lies on a local disk, since entries are memory-mapped; the file
ADDRESS in it says where its copy is. What has to be computed is copied there once; the joined text
of shards is not, since it consists of their files.
"""

import hashlib
import logging
import shutil
from pathlib import Path

from bytelm.core.files import make_folder, write_whole
from bytelm.core.places import fetch, is_of_store, objects, place, send
from bytelm.core.terminal_text import printable_name

ADDRESS = "address"
COPIES = "copies"
"""The folder of the user's cache with those of addresses."""
_JOINED = "packed"

logger = logging.getLogger(__name__)


def local_cache(address: Path, base: Path) -> Path:
    """The cache on this machine, in the user's cache `base`, of one at an address."""
    name = hashlib.blake2b(str(address).encode(), digest_size=8).hexdigest()
    folder = base / COPIES / name
    if not (folder / ADDRESS).exists():
        make_folder(folder)
        write_whole(folder / ADDRESS, str(address))
    return folder


def address_of(cache_path: Path) -> Path | None:
    """The address of a cache on this machine; None if it has none."""
    try:
        return place((cache_path / ADDRESS).read_text())
    except OSError:
        return None


def fetch_entry(directory: Path, target: Path, last: str) -> bool:
    """Fetches the copy of an entry into the folder `target`; whether there is one.

    Args:
        directory: of the entry, in a folder of the cache.
        last: the file that a whole copy has.
    """
    if (copy := _copy_of(directory)) is None or not (copy / last).exists():
        return False
    logger.info("fetching %s", copy)
    shutil.rmtree(target, ignore_errors=True)
    fetch(copy, target, objects(copy))
    return True


def send_entry(directory: Path, last: str) -> None:
    """Copies an entry to the address of its cache, if it has one, and the file `last` last.

    If the store does not take it, there is a warning: the entry is there for this machine.
    """
    if (copy := _copy_of(directory)) is None:
        return
    names = sorted(path.name for path in directory.iterdir() if path.name != last)
    try:
        send(directory, copy, names)
        send(directory, copy, [last])
    except Exception as error:
        if not (is_of_store(error) or isinstance(error, OSError)):
            raise
        logger.warning("%s could not be copied to %s: %s", printable_name(directory), copy, error)


def _copy_of(directory: Path) -> Path | None:
    """Where an entry has its copy, if it has one."""
    kind, address = directory.parent.name, address_of(directory.parents[1])
    return None if address is None or kind == _JOINED else address / kind / directory.name
