"""Writing a file so that it appears whole or not at all."""

import os
from pathlib import Path

from bytelm.file_names import shortened


def write_whole(path: Path, content: str | bytes) -> None:
    """Puts a file, text in UTF-8, in the place of what was there; writes it beside and renames."""
    beside = path.with_name(f"{shortened(path.name)}.{os.getpid()}.tmp")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(beside, path)
