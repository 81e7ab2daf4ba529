"""Users' files: those that match patterns.

Links are followed without endless loops, and a file with several names counts once. A pattern may
be an address (`core/places.py`).
"""

import collections
import fnmatch
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bytelm.core.errors import UserError
from bytelm.core.places import file_system, is_address, is_address_text, place
from bytelm.core.terminal_text import printable_name

ANY_DEPTH = "**"
WILDCARDS = re.compile(r"[*?[]")

logger = logging.getLogger(__name__)


def find_files(patterns: Iterable[str], option: str) -> list[Path]:
    """The files that match patterns, in the order of their absolute names.

    `*`, `?` and `[abc]` match within a name, `**` any number of directories. If a name with
    brackets exists exactly as written, it is taken literally. Links are followed. A file with
    several names counts once, under its real name if that matches.

    Raises:
        UserError: for a pattern that matches no file; it names `option`.
    """
    names: dict[object, str] = {}
    objects: dict[str, Path] = {}
    for pattern in patterns:
        if is_address_text(pattern):
            objects |= {str(path): path for path in _objects(pattern, option)}
            continue
        found = [name for name in _matches(pattern) if _is_file(name)]
        if not found:
            raise UserError(_nothing(pattern, option))
        for name in found:
            file = identity(name)
            names[file] = min(names.get(file, name), name, key=_preference)
    files = sorted(map(Path, names.values()), key=lambda path: Path(os.path.abspath(path)))
    return files + [objects[name] for name in sorted(objects)]


def _objects(pattern: str, option: str) -> list[Path]:
    """The objects that match an address with wildcards; UserError if there are none."""
    path = place(pattern)
    system, name = file_system(path)
    if system.isfile(name):
        return [path]
    found = [each for each in system.glob(name) if system.isfile(each)]
    if not found:
        end = f"; name the files in it, such as '{path}/**'" if system.isdir(name) else ""
        raise UserError(f"{option}: no object matches {pattern!r}{end or '; check the address'}.")
    return [place(system.unstrip_protocol(each)) for each in found]


def identity(path: str | Path) -> object:
    """A value that is equal for all names of one file, and only for them."""
    if not isinstance(path, str) and is_address(path):
        return str(path)
    stat = os.stat(path)
    if stat.st_ino == 0:  # a file system without inodes
        return os.path.realpath(path)
    # Size and time are added because inodes are not unique on some network file systems.
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _preference(name: str) -> tuple[bool, str]:
    absolute = os.path.abspath(name)
    return absolute != os.path.realpath(name), absolute


def _matches(pattern: str) -> Iterable[str]:
    path = Path(os.path.expanduser(place(pattern)))
    parts = [part for part in path.parts if part != path.anchor]
    if parts and parts[-1] == ANY_DEPTH:
        parts.append("*")
    found: Iterable[str] = [path.anchor]
    for part in parts:
        found = _below(list(found), part)
    return found


def _below(directories: list[str], part: str) -> Iterable[str]:
    """Matches of one part of a pattern in directories."""
    if part == ANY_DEPTH:
        return [found for directory in directories for found in _tree(directory)]
    if not WILDCARDS.search(part):
        return filter(os.path.lexists, (os.path.join(each, part) for each in directories))
    as_written = part.replace("[", "[[]")
    return _named(directories, as_written) or _named(directories, part)


def _named(directories: list[str], part: str) -> list[str]:
    return [
        os.path.join(directory, entry.name)
        for directory in directories
        for entry in _entries(directory)
        if fnmatch.fnmatchcase(entry.name, part)
        and (part.startswith(".") or not entry.name.startswith("."))
    ]


def _tree(root: str) -> Iterator[str]:
    """A directory and those below it, each real one once, by its own name before a link's."""
    seen: set[str] = set()
    waiting = collections.deque([root])
    while waiting:
        directory = waiting.popleft()
        real = os.path.realpath(directory)
        if real in seen:
            continue
        seen.add(real)
        yield directory
        for entry in _entries(directory):
            if entry.is_dir() and not entry.name.startswith("."):
                path = os.path.join(directory, entry.name)
                # Directories come before links, which may point to them.
                waiting.append(path) if entry.is_symlink() else waiting.appendleft(path)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory or os.curdir) as entries:
            return list(entries)
    except (NotADirectoryError, FileNotFoundError):
        return []
    except OSError as error:
        name = printable_name(directory or os.curdir)
        logger.warning("%s cannot be listed (%s): its files are skipped", name, error.strerror)
        return []


def _is_file(name: str) -> bool:
    if os.path.islink(name) and not os.path.exists(name):
        logger.warning("%s is a broken link: it is skipped", printable_name(name))
    return os.path.isfile(name)


def _nothing(pattern: str, option: str) -> str:
    path = Path(os.path.expanduser(place(pattern)))
    if path.is_dir():
        return (
            f"{option}: {path} is a directory; name the files in it, such as "
            f"'{path / ANY_DEPTH / '*.txt'}'."
        )
    if path.exists():
        return f"{option}: {path} is not a regular file; write its output into a file first."
    return f"{option}: no file matches {pattern!r}; check the path and the quotes."
