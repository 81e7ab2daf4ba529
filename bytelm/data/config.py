"""What text a run reads, and how it is cut into batches."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bytelm.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class SourceConfig:
    """One source of documents: a TFDS dataset or, where `files` is given, local files."""

    dataset: str = "python_stdlib"
    """`python_stdlib`, or a text dataset of TFDS: `name`, `name/config` or `name/config:1.0.0`."""
    data_dir: str | None = None
    """Directory that holds the prepared TFDS dataset; none = TFDS's default."""
    train_split: str | None = None
    """TFDS split to train on, such as `train` or `train[:90%]`; none = `train`."""
    validation_split: str | None = None
    """TFDS split for validation; none = `validation` or `valid`, else a hash of each document."""
    test_split: str | None = None
    """TFDS split for the test; none = `test`, else a hash of each document."""
    files: tuple[str, ...] = ()
    """Globs of .txt files (one document each) and .jsonl files (one a line); .gz, .xz, .zst too."""
    validation_files: tuple[str, ...] = ()
    """Globs of the validation files; none = by a hash of each document in `files`."""
    test_files: tuple[str, ...] = ()
    """Globs of the test files; none = by a hash of each document in `files`."""
    text_key: str | None = None
    """Key of the text in a JSON line, or text feature of a dataset; none = `text`, or found."""
    script: str | None = None
    """Script (or language) of all documents, such as `eng`; none = unknown, or by `script_key`."""
    script_key: str | None = None
    """Key of the script of its document in a JSON line; none = unknown, or `script`."""
    held_out: float = 0.05
    """Share of documents that the hash gives to each split which the source does not have."""
    skip_bad: bool = False
    """Count and skip broken JSON lines, and lines without the key, instead of stopping."""
    weight: float = 1.0
    """Share of a mixture's rows that come from this source, relative to the other weights."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 0.5:
            raise UserError(f"data.held_out is {self.held_out}; choose from 0 to below 0.5.")
        if not 0 < self.weight < float("inf"):
            raise UserError(f"data.weight is {self.weight}; choose a positive number.")
        if self.script is not None and self.script_key is not None:
            raise UserError(
                f"data.script is {self.script} and data.script_key {self.script_key}; give the "
                "script of all documents or the key of each one's, not both."
            )
        if self.script_key is not None and not self.files:
            raise UserError(
                f"data.script_key is {self.script_key}, a key of JSON lines, and there are no "
                "data.files beside it; name them, or the script of all documents with data.script."
            )
        if (self.validation_files or self.test_files) and not self.files:
            raise UserError(
                "data.validation_files and data.test_files need data.files beside them."
            )
        if self.files and self.dataset != "python_stdlib":
            raise UserError(
                f"data.dataset {self.dataset} and data.files {' '.join(self.files)} are two "
                "sources; give one of them (an empty data.files takes files back), or a mixture."
            )
        if self.files and (self.train_split or self.validation_split or self.test_split):
            raise UserError(
                "data.train_split, validation_split and test_split name splits of a TFDS dataset; "
                "with data.files use data.validation_files and data.test_files."
            )


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """The text of a run (one source, or a mixture of several) and the shape of its batches."""

    mixture: tuple[SourceConfig, ...] = ()
    """Several sources, each with its weight, in place of the single source above."""
    sequence_length: int = 1024
    """Symbols in a row (T): bytes, and the start and the end of each document."""
    batch_size: int = 8
    """Rows in the batch of one training step, over all processes."""
    read: Literal["packed", "stream"] = "packed"
    """`packed`: from a cache that is built once; `stream`: from a TFDS dataset too large for it."""
    scripts: tuple[str, ...] = ()
    """Names of the scripts that a model tells apart, which batches carry as numbers in this order;
    every document needs one of them. none = batches carry no scripts."""
    unigram: str | None = None
    """SentencePiece model, as `bytelm data unigram` makes, whose pieces supervise a model's
    boundaries; none = batches carry no boundaries."""
    cache_dir: str | None = None
    """Directory for packed text; none = $BYTELM_CACHE, or `bytelm` in the user's cache."""
    workers: int = 0
    """Processes that prepare batches ahead of training; 0 = threads of the training process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixture and (self.files or self.dataset != "python_stdlib" or self.script):
            raise UserError(
                "data.mixture and data.files, data.dataset or data.script are given together; name "
                "every source and its script in the mixture, or leave the mixture out."
            )
        if len(set(self.scripts)) < len(self.scripts):
            raise UserError(f"data.scripts names one twice: {', '.join(self.scripts)}.")
        if self.sequence_length < 1:
            raise UserError(f"data.sequence_length is {self.sequence_length}; choose 1 or more.")
        if self.batch_size < 1:
            raise UserError(f"data.batch_size is {self.batch_size}; choose 1 or more.")
        if self.workers < 0:
            raise UserError(f"data.workers is {self.workers}; choose 0 or more.")

    @property
    def source_configs(self) -> tuple[SourceConfig, ...]:
        """The sources to read: those of the mixture, or this config as the only one."""
        return self.mixture or (self,)

    @property
    def cache_path(self) -> Path:
        """Where packed text is kept."""
        if self.cache_dir is not None:
            return Path(self.cache_dir).expanduser()
        if "BYTELM_CACHE" in os.environ:
            return Path(os.environ["BYTELM_CACHE"]).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bytelm"
