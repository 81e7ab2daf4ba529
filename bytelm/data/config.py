"""What a run reads and learns: its source of text, its task, and the shape of its batches."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from bytelm.core.checked import Checked, require_small
from bytelm.core.errors import UserError
from bytelm.data.sources.files import Files
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
"""Processes of one training process that prepare batches."""


@dataclass(frozen=True)
class DataConfig(Checked, name="data"):
    """What a run reads and learns, and the shape of its batches."""

    source: Annotated[SourceConfig, tyro.conf.arg(name="")] = field(default_factory=PythonLibrary)
    """Where text comes from."""
    task: Annotated[Task, tyro.conf.arg(name="")] = field(default_factory=NextByte)
    """What a model learns of it."""
    sequence_length: int = 1024
    """Symbols in a row (T): bytes, and the start and the end of each document. With an encoder,
    what it reads (S): bytes, and the end of the input."""
    batch_size: int = 8
    """Rows in the batch of one training step, over all processes."""
    scripts: tuple[str, ...] = ()
    """Names of the scripts that a model distinguishes, which batches carry as numbers in this
    order; every document needs one of them. none = batches carry no scripts."""
    cache_dir: str | None = None
    """Directory for packed text; none = $BYTELM_CACHE, or `bytelm` in the user's cache."""
    workers: int = 0
    """Processes that prepare batches ahead of training; 0 = threads of the training process."""

    def __post_init__(self) -> None:
        if len(set(self.scripts)) < len(self.scripts):
            raise UserError(f"data.scripts names one twice: {', '.join(self.scripts)}.")
        for name in ("sequence_length", "batch_size"):
            value = getattr(self, name)
            require_small(f"data.{name}", value)
            if value < 1:
                raise UserError(f"data.{name} is {value}; choose 1 or more.")
        if not 0 <= self.workers <= MOST_WORKERS:
            raise UserError(f"data.workers is {self.workers}; choose from 0 to {MOST_WORKERS}.")
        self.task.check(self.source_configs, self.sequence_length, self.scripts)

    @property
    def row_length(self) -> int:
        """T, the most symbols that a row scores."""
        return self.task.row_length(self.sequence_length)

    @property
    def source_configs(self) -> tuple[SingleSource, ...]:
        """The sources to read: those of a mixture, or the only one."""
        return self.source.parts

    @property
    def cache_path(self) -> Path:
        """Where packed text is kept."""
        if self.cache_dir is not None:
            return Path(self.cache_dir).expanduser()
        if "BYTELM_CACHE" in os.environ:
            return Path(os.environ["BYTELM_CACHE"]).expanduser()
        try:
            return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bytelm"
        except RuntimeError:
            raise UserError(
                "there is no place for the cache, since this user has no home directory; name one "
                "with --data.cache-dir or the variable BYTELM_CACHE."
            ) from None
