"""Files and folders: written whole or not at all, and checked before the work starts.

At an address (`core/places.py`) a file is one object, which stores write whole. A folder is copied
there file by file, and readers know it as whole by the one that is written last.
"""

import atexit
import contextlib
import errno
import functools
import itertools
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from bytelm.core.errors import UserError, first_line
from bytelm.core.places import (
    file_system,
    is_address,
    is_address_text,
    is_of_store,
    objects,
    place,
    send,
)


def write_whole(path: Path, content: str | bytes) -> None:
    r"""Writes a file, or replaces one: into a temporary file next to it, which is then renamed.

    Text is written as UTF-8; a byte of a file name that is not UTF-8 is written as `\udcNN`.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    if is_address(path):
        system, name = file_system(path)
        system.pipe_file(name, content)
        return
    partial = _temporary(path)
    partial.write_bytes(content)
    os.replace(partial, path)


@contextlib.contextmanager
def new_folder(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder to write into, which is renamed to `folder` when all is written.

    For an address it is a local one, whose files are copied; `last` names the file that comes after
    all others, without which `folder` is not what it is to be.

    Raises:
        UserError: if `folder` is a file, or holds files.
    """
    if is_address(folder):
        with _folder_to_send(folder, last) as partial:
            yield partial
        return
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists and holds files; choose another place.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary(folder)
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _folder_to_send(folder: Path, last: str) -> Iterator[Path]:
    if folder.is_file() or objects(folder):
        raise UserError(f"{folder} exists and holds files; choose another place.")
    with tempfile.TemporaryDirectory(prefix="bytelm-") as temporary:
        partial = Path(temporary)
        yield partial
        files = (file for file in partial.rglob("*") if file.is_file())
        names = sorted(str(file.relative_to(partial)) for file in files)
        send(partial, folder, [name for name in names if name != last])
        send(partial, folder, [name for name in names if name == last])


def write_new(path: Path, content: str) -> None:
    """Writes a new file, as UTF-8; it appears whole or not at all.

    Raises:
        FileExistsError: if the file exists; it is left as it is. A store without conditional writes
            is asked first, so that of two processes at the same moment one may go unnoticed.
    """
    if is_address(path):
        create(path, content.encode())
        return
    with new_file(path) as file:
        file.write(content.encode())


def create(address: Path, content: bytes | Path) -> None:
    """Writes a new object, from bytes or a file of this machine; FileExistsError if there is one.

    S3, Google's and Azure's stores decide between two processes at the same moment.
    """
    system, name = file_system(address)
    if system.exists(name):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(address))
    try:
        if isinstance(content, bytes):
            system.pipe_file(name, content, mode="create")
        else:
            system.put_file(str(content), name, mode="create")
    except Exception as error:
        if is_of_store(error) or isinstance(error, OSError):
            _raise_if_there(address, error)
        raise


def _raise_if_there(address: Path, error: Exception) -> None:
    """Raises FileExistsError for a write that was refused because the object exists.

    Stores say so in different ways.
    """
    words = ("precondition", "pre-condition", "conditional", "already exists", "412", "file exists")
    if isinstance(error, FileExistsError) or any(word in str(error).lower() for word in words):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(address)) from error


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary file to write into and read, which becomes `path` when all is written.

    For an address it is on a disk of this machine.

    Raises:
        FileExistsError: if `path` exists by then; it is left as it is.
    """
    if is_address(path):
        with tempfile.TemporaryDirectory(prefix="bytelm-") as temporary:
            partial = Path(temporary) / "new"
            with partial.open("w+b") as file:
                yield file
            create(path, partial)
        return
    partial = _temporary(path)
    try:
        with partial.open("w+b") as file:
            yield file
        _put_new(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _put_new(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with path.open("xb"):
            os.replace(partial, path)


def write_next(path: Path, content: str) -> Path:
    """Writes a new file under the first free name of `x.json`, `x-2.json`, ...; returns it."""
    place = path
    for number in itertools.count(2):
        with contextlib.suppress(FileExistsError):
            write_new(place, content)
            break
        place = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return place


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, unless it is there; at an address none is needed.

    fsspec would make the bucket.
    """
    if not is_address(folder):
        folder.mkdir(parents=True, exist_ok=True)


def may_write(folder: Path) -> bool:
    """Whether a folder can be written to; of an address that is known only afterwards."""
    return is_address(folder) or os.access(folder, os.W_OK)


def check_new_file(path: Path, option: str = "--output") -> None:
    """Raises UserError if a file exists already or could not be written."""
    if is_address(path):
        _check_reachable(path, option)
        if path.exists():
            raise UserError(f"{path} exists already; choose another {option}.")
        return
    if path.is_dir():
        raise UserError(f"{option}: {path} is a directory; name a file in it.")
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; choose another {option}.")
    if not path.parent.is_dir():
        raise UserError(f"{option}: there is no directory {path.parent}; make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{option}: {path.parent} cannot be written to; choose another place.")


def check_folder(path: Path, option: str = "--output") -> None:
    """Raises UserError if a path is a file, is below one, or could not be written to."""
    if is_address(path):
        _check_reachable(path, option)
        if path.is_file():
            raise UserError(f"{option}: {path} is a file; choose another place.")
        return
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{option}: {nearest} is a file; choose another place.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{option}: {nearest} cannot be written to; choose another place.")


def _check_reachable(address: Path, option: str) -> None:
    """Raises UserError if a store cannot be asked about an address."""
    try:
        address.exists()
    except Exception as error:  # of the store, the network or the credentials
        words = first_line(error).rstrip(".")
        raise UserError(f"{option}: {address} cannot be reached: {words}.") from error


def name_part(text: str) -> str:
    """A part of a file name from a text: letters, digits, `_`, `.` and `-`, at most 100 bytes.

    File systems allow 255 bytes, and a name has several parts. Two texts may give the same part.
    """
    return re.sub(r"[^\w.-]+", "-", text).encode()[:100].decode(errors="ignore")


def _temporary(path: Path) -> Path:
    """A path next to a file or folder; long names are cut so that the ending fits."""
    name = os.fsdecode(os.fsencode(path.name)[:200])
    # Processes on two machines may have the same number.
    return path.with_name(f"{name}.{name_part(socket.gethostname())[:40]}-{os.getpid()}.tmp")


def is_utf8(name: str) -> bool:
    """Whether a file name is valid UTF-8, as some libraries require."""
    return not any("\udc80" <= character <= "\udcff" for character in name)


def plain_path(path: Path) -> Path:
    """The path itself, or one without special characters: a link in a temporary directory.

    For Orbax, which takes names of directories for patterns when it joins the files of several
    processes. With brackets in a name it finds nothing, and its checkpoints cannot be read. It also
    fails for names that are not UTF-8. The parent of `path` must exist.
    """
    absolute = path.absolute()
    is_plain = is_utf8(str(absolute)) and not re.search(r"[*?[]", str(absolute))
    return path if is_plain else _link(absolute.parent) / path.name


@functools.cache
def _link(directory: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bytelm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = folder / "run"
    link.symlink_to(directory)
    return link


def absolute(names: Iterable[str]) -> tuple[str, ...]:
    """File names or globs as absolute paths, with `~` expanded; addresses as they are."""
    return tuple(
        name if is_address_text(name) else os.path.abspath(os.path.expanduser(place(name)))
        for name in names
    )
