"""A second name for a directory whose own name Orbax cannot handle."""

import atexit
import functools
import re
import shutil
import tempfile
from pathlib import Path

SPECIAL = re.compile("[*?[\udc80-\udcff]")
"""Characters of patterns, and bytes that are not UTF-8, which Orbax cannot write."""


def plain_path(path: Path) -> Path:
    """The path itself, or a path without special characters: a link in a temporary directory.

    Orbax reads names of directories as patterns when it joins what processes have written. Under a
    name with brackets it finds nothing, and leaves checkpoints that cannot be read.

    Args:
        path: in a directory that exists.
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
