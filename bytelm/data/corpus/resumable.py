"""Files written document by document; a later process can continue them."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from bytelm.core.files import write_whole
from bytelm.data.corpus.blocks import DIGEST_BYTES, block_digests

PROGRESS = "progress.json"
"""File with the number of written documents, and the sizes and digests of their files."""
SAVE_SECONDS = 10.0

logger = logging.getLogger(__name__)


class ResumableFiles:
    """A context that writes some files, and continues those that a killed process has saved.

    Attributes:
        done: number of written documents.
        files: the open files by name, at their ends.
    """

    def __init__(self, directory: Path, names: Sequence[str], content: str) -> None:
        """Opens the files; messages call them `content`."""
        self._directory = directory
        self._digests = dict.fromkeys(names, b"")
        self.done = 0
        saved = self._saved(names)
        if saved is None and (directory / PROGRESS).exists():
            logger.warning("the unfinished part of %s is damaged; it starts over", content)
        if saved:
            self.done, sizes = saved["done"], saved["sizes"]
            logger.warning("continuing %s after %d documents", content, self.done)
        else:
            sizes = dict.fromkeys(names, 0)
        self.files: dict[str, BinaryIO] = {}
        for name in names:
            file = (directory / name).open("r+b" if saved else "wb")
            file.truncate(sizes[name])
            file.seek(sizes[name])
            self.files[name] = file
        self._save_at = time.monotonic() + SAVE_SECONDS

    def _saved(self, names: Sequence[str]) -> dict | None:
        """The saved progress, if the files are intact so far; sets their digests."""
        try:
            saved = json.loads((self._directory / PROGRESS).read_text())
            for name in names:
                path, size = self._directory / name, saved["sizes"][name]
                with path.open("r+b") as file:
                    if file.seek(0, os.SEEK_END) < size:
                        return None
                    file.truncate(size)
                self._digests[name] = block_digests(path)
                if self._digests[name].hex() != saved["digests"][name]:
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return saved

    def __enter__(self) -> "ResumableFiles":
        return self

    def advance(self) -> None:
        """Counts one more document as written, and saves every few seconds."""
        self.done += 1
        if time.monotonic() >= self._save_at:
            self.save()

    def save(self) -> None:
        """Saves, so that a later process can continue from here."""
        sizes = {}
        for name, file in self.files.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
            whole = max(len(self._digests[name]) // DIGEST_BYTES - 1, 0)  # the last may have grown
            self._digests[name] = self._digests[name][: whole * DIGEST_BYTES] + block_digests(
                self._directory / name, whole
            )
        saved = {
            "done": self.done,
            "sizes": sizes,
            "digests": {name: digests.hex() for name, digests in self._digests.items()},
        }
        write_whole(self._directory / PROGRESS, json.dumps(saved))
        self._save_at = time.monotonic() + SAVE_SECONDS

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The current document may be incomplete: only the last save counts.
        for file in self.files.values():
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                file.close()
