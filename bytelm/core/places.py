"""Places: paths of this machine, and addresses of objects in buckets, such as `gs://bucket/run`.

An address is a `UPath` of the package universal_pathlib, which has the methods of `pathlib.Path`:
both are annotated as `Path`. A store of objects knows neither folders nor renaming, appending,
links or locks: what needs these is in `core/files.py` and `core/locks.py`, for both kinds.
"""

import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, cast
from urllib.parse import unquote

from bytelm.core.errors import UserError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MANGLED = re.compile(r"(s3|gs|gcs|az|abfs|memory|file):/(?!/)")
_EXTRA = "`pip install 'bytelm[buckets]'`"
_STORES = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs")
"""Packages whose errors are of a store: no network, no such bucket, no right to it."""
DELETING = 16
"""Objects that are removed at a time."""


def place(text: str | Path) -> Path:
    """The place that a user named: a path of this machine, or an address.

    `file://` and absolute path name a path of this machine. Nothing is read.

    Raises:
        UserError: for an address whose kind is unknown, or needs a package that is missing, and
            for a file of another machine.
    """
    if not isinstance(text, str):
        return text
    found = _ADDRESS.match(text)
    if found is None:
        if _MANGLED.match(text):
            raise UserError(f"{text} is neither a path nor an address, which has two slashes.")
        return Path(text)
    kind = found[1].lower()
    if kind == "file":
        host, slash, path = text[found.end() :].partition("/")
        if host not in ("", "localhost"):
            raise UserError(
                f"{text} names the machine {host}; a path of this machine has three slashes, as in "
                "file:///data/books."
            )
        return Path(unquote(slash + path))  # `?` and `#` are part of patterns and names
    try:
        import fsspec
        from upath import UPath

        fsspec.get_filesystem_class(kind)
    except ImportError as error:
        hint = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise UserError(
            f"{text}: {kind}:// needs packages that are not installed{hint}; those of s3:// and "
            f"gs:// come with {_EXTRA}."
        ) from None
    except ValueError:
        raise UserError(
            f"{text}: there are no addresses that begin with {kind}://; known are s3://, gs:// and "
            "others of fsspec."
        ) from None
    # Another process may write there, so no listing is kept.
    return cast(Path, UPath(text.rstrip("/"), use_listings_cache=False))


def is_place(value: Any) -> bool:
    """Whether a value is what `place` makes."""
    return isinstance(value, PurePath) or hasattr(value, "fs")


def is_address(path: Path) -> bool:
    """Whether a place is an address."""
    return not isinstance(path, PurePath)


def is_address_text(text: str) -> bool:
    """Whether a user's text names an address, and not a path of this machine."""
    found = _ADDRESS.match(text)
    return found is not None and found[1].lower() != "file"


def local(path: Path, option: str) -> Path:
    """The path; UserError for an address, where the option cannot use one."""
    if is_address(path):
        raise UserError(f"{option}: {path} is an address; name a path of this machine.")
    return path


def is_of_store(error: BaseException) -> bool:
    """Whether an error comes from a store of objects or the way to it."""
    return type(error).__module__.split(".")[0] in _STORES


def file_system(path: Path) -> tuple[Any, str]:
    """The fsspec file system of an address, and the address's path in it."""
    address = cast(Any, path)
    return address.fs, address.path


def objects(folder: Path) -> list[str]:
    """Names of all files below an address, relative to it, sorted; such as `a/b.json`."""
    system, root = file_system(folder)
    start = f"{root.rstrip('/')}/"
    system.invalidate_cache()
    return sorted(name.removeprefix(start) for name in system.find(root) if name != root)


def send(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copies files below a local folder to an address, each whole; several at a time."""
    system, root = file_system(target)
    if names:
        system.put([str(source / name) for name in names], [f"{root}/{name}" for name in names])


def fetch(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copies files below an address into a local folder; several at a time."""
    system, root = file_system(source)
    for folder in {(target / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    if names:
        system.get([f"{root}/{name}" for name in names], [str(target / name) for name in names])


def copy_file(source: Path, target: Path) -> None:
    """Copies a file to a place of the same kind."""
    if is_address(source):
        system, name = file_system(source)
        system.cp_file(name, file_system(target)[1])
    else:
        shutil.copy2(source, target)


def remove(folder: Path, first: str | None = None) -> None:
    """Removes a folder with all that is in it; at an address, the file `first` first."""
    if not is_address(folder):
        shutil.rmtree(folder)
        return
    system, root = file_system(folder)
    names = objects(folder)
    if first in names:
        system.rm_file(f"{root}/{first}")
        names.remove(first)
    with ThreadPoolExecutor(DELETING) as threads:  # fsspec's own way takes brackets for patterns
        list(threads.map(lambda name: system.rm_file(f"{root}/{name}"), names))


def move(folder: Path, target: Path, last: str | None = None) -> None:
    """Moves a folder; at an address by copying, the file `last` last."""
    if not is_address(folder):
        folder.rename(target)
        return
    (system, root), (_, other) = file_system(folder), file_system(target)
    names = objects(folder)
    for part in ([n for n in names if n != last], [n for n in names if n == last]):
        if part:
            system.copy([f"{root}/{name}" for name in part], [f"{other}/{name}" for name in part])
    remove(folder, first=last)
