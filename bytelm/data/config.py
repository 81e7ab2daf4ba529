"""Options of the data: the source of text, the task, and the shape of batches."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError
from bytelm.core.places import is_address, place
from bytelm.data.copies import local_cache
from bytelm.data.sources.files import Files
from bytelm.data.sources.hugging_face import HuggingFace
from bytelm.data.sources.python_library import PythonLibrary
from bytelm.data.sources.source import Mixture, SingleSource, SourceConfig
from bytelm.data.sources.tfds import Tfds
from bytelm.data.tasks.diagnostics import ContextualVowelRemoval, MergeAbc, VowelRemoval
from bytelm.data.tasks.next_byte import NextByte
from bytelm.data.tasks.pairs import Pairs
from bytelm.data.tasks.span_corruption import SpanCorruption
from bytelm.data.tasks.task import Task

__all__ = [
    "ContextualVowelRemoval",
    "DataConfig",
    "Files",
    "HuggingFace",
    "MergeAbc",
    "Mixture",
    "NextByte",
    "Pairs",
    "PythonLibrary",
    "SpanCorruption",
    "Tfds",
    "VowelRemoval",
]

MOST_WORKERS = 1024
"""Most processes that prepare batches for one training process."""


@dataclass(frozen=True)
class DataConfig(Checked, name="data", small=True):
    """The source of text, the task, and the shape of batches."""

    source: Annotated[SourceConfig, tyro.conf.arg(name="")] = field(default_factory=PythonLibrary)
    """Where text comes from."""
    task: Annotated[Task, tyro.conf.arg(name="")] = field(default_factory=NextByte)
    """What a model learns from it."""
    sequence_length: int = 1024
    """Symbols in a row (T): bytes, and the start and the end of each document. For a task with an
    encoder, symbols of its input (S): bytes and the end."""
    batch_size: int = 8
    """Rows of each training step, over all processes."""
    scripts: tuple[str, ...] = ()
    """Names of the scripts that a model distinguishes; batches carry their indices. Every document
    needs one of them. none = batches carry no scripts."""
    cache_dir: str | None = None
    """Directory of packed text; none = $BYTELM_CACHE, or `bytelm` in the user's cache. With an
    address, packed text lies there too, and each machine fetches it once into the user's cache."""
    workers: int = 0
    """Processes that prepare batches ahead of training; 0 = threads of the training process."""

    def __post_init__(self) -> None:
        if len(set(self.scripts)) < len(self.scripts):
            raise UserError(f"data.scripts names one twice: {', '.join(self.scripts)}.")
        self.require_positive("sequence_length", "batch_size")
        if not 0 <= self.workers <= MOST_WORKERS:
            raise UserError(f"data.workers is {self.workers}; choose from 0 to {MOST_WORKERS}.")
        self.task.check(self.source_configs, self.sequence_length, self.scripts)

    @property
    def row_length(self) -> int:
        """T, the most targets of a row."""
        return self.task.row_length(self.sequence_length)

    @property
    def source_configs(self) -> tuple[SingleSource, ...]:
        """The sources of a mixture, or the only source."""
        return self.source.parts

    @property
    def cache_path(self) -> Path:
        """Where packed text lies on this machine, with a copy if `cache_dir` is an address."""
        given = None if self.cache_dir is None else place(self.cache_dir)
        if given is not None and is_address(given):
            return local_cache(given, self._user_cache)
        return self._user_cache if given is None else given.expanduser()

    @property
    def _user_cache(self) -> Path:
        if "BYTELM_CACHE" in os.environ:
            return Path(os.environ["BYTELM_CACHE"]).expanduser()
        try:
            return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bytelm"
        except RuntimeError:
            raise UserError(
                "there is no place for the cache, since this user has no home directory; name one "
                "with --data.cache-dir or the variable BYTELM_CACHE."
            ) from None
