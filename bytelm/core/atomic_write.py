"""Writing a file or a folder so that it appears whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bytelm.core.errors import UserError
from bytelm.core.file_names import shortened


def write_whole(path: Path, content: str | bytes) -> None:
    r"""Writes a file, or replaces one: into a temporary file next to it, which is then renamed.

    Text is written as UTF-8; a byte of a file name that is not UTF-8 is written as `\udcNN`.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    partial = path.with_name(f"{shortened(path.name)}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    os.replace(partial, path)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which is renamed to `folder` when all of it is written.

    Raises:
        UserError: if `folder` is a file, or holds files.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists and holds files; choose another place.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{shortened(folder.name)}.{os.getpid()}.tmp")
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
