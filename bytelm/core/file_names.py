"""Names of files: parts of them made from text, and absolute paths."""

import os
import re
from collections.abc import Iterable

MOST_BYTES = 100
"""Less than the 255 that file systems allow: other parts and temporary endings need room."""


def name_part(text: str) -> str:
    """Makes part of a file name from a text: letters, digits, `_`, `.` and `-`, at most 100 bytes.

    Two texts may give the same part.
    """
    kept = re.sub(r"[^\w.-]+", "-", text)
    return kept.encode()[:MOST_BYTES].decode(errors="ignore")


def shortened(name: str) -> str:
    """The first 200 bytes of a name, which leaves room for a temporary ending."""
    return os.fsdecode(os.fsencode(name)[:200])


def is_utf8(name: str) -> bool:
    """Whether a file name is valid UTF-8; some libraries accept no other."""
    return not any("\udc80" <= character <= "\udcff" for character in name)


def absolute(names: Iterable[str]) -> tuple[str, ...]:
    """File names or globs as absolute paths, with `~` expanded."""
    return tuple(os.path.abspath(os.path.expanduser(name)) for name in names)
