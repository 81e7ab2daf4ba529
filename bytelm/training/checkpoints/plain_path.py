"""Another name for a directory whose own name Orbax would not take as it is."""

import atexit
import functools
import re
import shutil
import tempfile
from pathlib import Path

SPECIAL = re.compile("[*?[\udc80-\udcff]")
"""What Orbax takes as a pattern, and bytes that are not UTF-8, which it cannot write."""


def plain_path(path: Path) -> Path:
    """The path itself, or one without special characters, through a link in a temporary directory.

    Orbax takes names of directories as patterns when it joins what processes have written: under
    a name with brackets it finds nothing, and leaves checkpoints that cannot be read.

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
