"""Files that a command writes: checked before the work starts, and never overwritten."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from bytelm.core.errors import UserError
from bytelm.core.file_names import shortened


def check_new_file(path: Path, option: str = "--output") -> None:
    """Raises UserError if a file exists already or could not be written."""
    if path.is_dir():
        raise UserError(f"{option}: {path} is a directory; name a file in it.")
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; choose another {option}.")
    if not path.parent.is_dir():
        raise UserError(f"{option}: there is no directory {path.parent}; make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{option}: {path.parent} cannot be written to; choose another place.")


def check_folder(path: Path, option: str = "--output") -> None:
    """Raises UserError if a path is a file, lies below one, or could not be written to."""
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{option}: {nearest} is a file; choose another place.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{option}: {nearest} cannot be written to; choose another place.")


def write_new(path: Path, content: str) -> None:
    """Writes a new file, as UTF-8; it appears whole or not at all.

    Raises:
        FileExistsError: if the file exists; it is left as it is.
    """
    partial = path.with_name(f"{shortened(path.name)}.{os.getpid()}.tmp")
    partial.write_bytes(content.encode())
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with path.open("xb"):
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_next(path: Path, content: str) -> Path:
    """Writes a new file under the first free name of `x.json`, `x-2.json`, ...; returns that."""
    for place in _names(path):
        try:
            write_new(place, content)
        except FileExistsError:
            continue
        return place
    raise AssertionError("there is always a free name")


def _names(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
