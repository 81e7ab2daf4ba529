"""Parts of file names that are made from text."""

import os
import re

MOST_BYTES = 100
"""A file system allows 255 in a name, of which other parts and temporary names need some."""


def name_part(text: str) -> str:
    """A text as part of a file name: letters, digits, `_`, `.` and `-`, at most 100 bytes of UTF-8.

    Two texts may give the same part.
    """
    kept = re.sub(r"[^\w.-]+", "-", text)
    return kept.encode()[:MOST_BYTES].decode(errors="ignore")


def shortened(name: str) -> str:
    """The first bytes of a name, short enough to be made longer by a temporary file's ending."""
    return os.fsdecode(os.fsencode(name)[:200])


def is_utf8(name: str) -> bool:
    """Whether the bytes of a name are UTF-8, which some libraries need."""
    return not any("\udc80" <= character <= "\udcff" for character in name)
