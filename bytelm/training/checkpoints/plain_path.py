"""A second name for a directory whose name Orbax cannot handle."""

import atexit
import functools
import re
import shutil
import tempfile
from pathlib import Path

SPECIAL = re.compile("[*?[\udc80-\udcff]")
"""Characters of patterns, and bytes that are not UTF-8."""


def plain_path(path: Path) -> Path:
    """The path itself, or a path without special characters: a link in a temporary directory.

    Orbax takes names of directories for patterns when it joins the files of several processes. With
    brackets in a name it finds nothing, and its checkpoints cannot be read. The parent of `path`
    must exist.
    """
    absolute = path.absolute()
    return _link(absolute.parent) / path.name if SPECIAL.search(str(absolute)) else path


@functools.cache
def _link(directory: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bytelm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = folder / "run"
    link.symlink_to(directory)
    return link
