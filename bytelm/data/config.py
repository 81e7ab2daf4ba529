"""What text a run reads, and how it is cut into batches."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bytelm.core.checked import Checked, require_small
from bytelm.core.errors import UserError
from bytelm.data.sources.passages import LONGEST
from bytelm.data.tasks.span_corruption import SENTINELS, lengths, span_counts

Split = Literal["train", "validation", "test"]
MOST_WORKERS = 1024
"""Processes of one training process that prepare batches."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Task = Literal[
    "next_byte",
    "span_corruption",
    "pairs",
    "vowel_removal",
    "contextual_vowel_removal",
    "merge_abc",
]
DIAGNOSTICS: tuple[Task, ...] = ("vowel_removal", "contextual_vowel_removal", "merge_abc")
"""The tasks that make up their own text (`bytelm.data.tasks.diagnostics`)."""
LEAST_SPLIT = 4 * LONGEST
"""Bytes that a document needs to be split by position: a few passages for each split."""


@dataclass(frozen=True)
class SourceConfig(Checked, name="data"):
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
    """Globs of .txt files (one document each) and .jsonl files (one a line), or their names; .json
    and .ndjson are JSON lines too, and any may end in .gz, .bz2, .xz or .zst."""
    validation_files: tuple[str, ...] = ()
    """Globs of the validation files; none = by a hash of each document in `files`."""
    test_files: tuple[str, ...] = ()
    """Globs of the test files; none = by a hash of each document in `files`."""
    text_key: str | None = None
    """Key of the text in a JSON line, or text feature of a dataset; none = `text`, or found."""
    target_key: str | None = None
    """Key of the target in a JSON line, whose text is the input: for the task `pairs`. A list of
    right targets gives its first."""
    script: str | None = None
    """Script (or language) of all documents, such as `eng`; none = unknown, or by `script_key`."""
    script_key: str | None = None
    """Key of the script of its document in a JSON line; none = unknown, or `script`."""
    held_out: float = 0.05
    """Share of documents that the hash gives to each split which the source does not have."""
    split_above: int | None = 2**20
    """A document longer than so many bytes is split by position: its beginning is trained on, and
    its end held out, a share of `held_out` for each split which the source does not have. none =
    every document is in one split."""
    skip_bad: bool = False
    """Count and skip broken JSON lines, lines without the key, and damaged compressed files instead
    of stopping."""
    weight: float = 1.0
    """Share of a mixture's rows that come from this source, relative to the other weights."""

    def __post_init__(self) -> None:
        for name in ("files", "validation_files", "test_files"):
            if "" in getattr(self, name):
                raise UserError(
                    f"data.{name} names an empty file; if that is a shell variable, it is empty: "
                    "name the files, or leave the option out."
                )
        if not 0 <= self.held_out < 0.5:
            raise UserError(f"data.held_out is {self.held_out}; choose from 0 to below 0.5.")
        if self.split_above is not None and self.split_above < LEAST_SPLIT:
            raise UserError(
                f"data.split_above is {self.split_above}; choose {LEAST_SPLIT} bytes or more, or "
                "None to keep every document in one split."
            )
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
        if self.target_key is not None and not self.files:
            raise UserError(
                f"data.target_key is {self.target_key}, a key of JSON lines, and there are no "
                "data.files beside it; name them."
            )
        if (self.validation_files or self.test_files) and not self.files:
            raise UserError(
                "data.validation_files and data.test_files need data.files beside them."
            )
        if self.files and self.dataset != "python_stdlib":
            raise UserError(
                f"data.dataset {self.dataset} and data.files {' '.join(self.files)} are two "
                "sources; give one of them, or a mixture."
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
    task: Task = "next_byte"
    """What a model learns: `next_byte` of packed text; for an encoder and a decoder,
    `span_corruption` of text (as ByT5), `pairs` of inputs and targets in JSON lines, or a
    diagnostic task of MrT5, which needs no text."""
    sequence_length: int = 1024
    """Symbols in a row (T): bytes, and the start and the end of each document. With an encoder,
    what it reads (S): bytes, and the end of the input."""
    target_length: int | None = None
    """Symbols that a decoder writes at most (T), the end included; none = what span corruption
    makes, or as many as `sequence_length`."""
    noise_density: float = 0.15
    """Share of the text that span corruption takes out."""
    mean_span: float = 20.0
    """Mean bytes of each span that it takes out."""
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
    tokenizer: str | None = None
    """Tokenizer, as `bytelm tokenizer train` makes or a Hugging Face tokenizer.json, whose tokens
    are then the symbols of text; none = bytes."""
    stochastok: float = 0.0
    """Share of the tokens that training splits in two at random (StochasTok, arXiv 2506.01687)."""
    piece_bytes: int | None = None
    """Cut documents into pieces of so many bytes and shuffle those, so that models of bytes and of
    tokens read the same text in the same order; none = rows are shuffled."""
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
        if not 0 <= self.workers <= MOST_WORKERS:
            raise UserError(f"data.workers is {self.workers}; choose from 0 to {MOST_WORKERS}.")
        for name in ("sequence_length", "target_length", "batch_size", "piece_bytes"):
            require_small(f"data.{name}", getattr(self, name))
        if not 0 < self.noise_density < 1:
            raise UserError(
                f"data.noise_density is {self.noise_density}; choose between 0 and 1, such as 0.15."
            )
        if not 1 <= self.mean_span < float("inf"):
            raise UserError(f"data.mean_span is {self.mean_span}; choose 1 or more.")
        self._check_tokens()
        self._check_task()
        self._check_target_length()

    def _check_tokens(self) -> None:
        if not 0 <= self.stochastok <= 1:
            raise UserError(
                f"data.stochastok is {self.stochastok}; choose from 0 to 1, such as 0.1."
            )
        if self.stochastok and self.tokenizer is None:
            raise UserError(
                f"data.stochastok is {self.stochastok}, and there are no tokens to split; name a "
                "tokenizer with --data.tokenizer, or leave it out."
            )
        if self.stochastok and self.piece_bytes is not None:
            raise UserError(
                "data.stochastok makes rows of its own, which data.piece_bytes cannot order; leave "
                "one of them out."
            )
        if self.piece_bytes is not None and self.piece_bytes < 1:
            raise UserError(f"data.piece_bytes is {self.piece_bytes}; choose 1 or more.")
        for name in ("tokenizer", "piece_bytes"):
            value = getattr(self, name)
            if value is None:
                continue
            if self.task != "next_byte":
                raise UserError(
                    f"data.{name} is {value}, and the task {self.task} is of bytes in rows of its "
                    "own; leave it out."
                )
            if self.read == "stream" or self.unigram is not None:
                other = "data.read stream" if self.read == "stream" else "data.unigram"
                raise UserError(
                    f"data.{name} is {value}, which does not go with {other}; leave one of them "
                    "out."
                )
        if self.piece_bytes is not None and len(self.source_configs) > 1:
            raise UserError(
                f"data.piece_bytes is {self.piece_bytes}, and a mixture has an order of its own; "
                "name all files in data.files, or leave it out."
            )

    def _check_task(self) -> None:
        has_encoder = self.task != "next_byte"
        if has_encoder and self.read == "stream":
            raise UserError(
                f"data.read is stream, and the task {self.task} cannot be streamed, only next_byte "
                "can; use --data.read packed."
            )
        if has_encoder and self.unigram is not None:
            raise UserError(
                f"data.unigram is {self.unigram}, and the task {self.task} has no boundaries to "
                "supervise; take it back with --data.unigram None."
            )
        for source in self.source_configs:
            if self.task == "pairs" and source.target_key is None:
                raise UserError(
                    "the task pairs reads an input and a target from each JSON line; name their "
                    "keys with --data.text-key and --data.target-key, and the --data.files."
                )
            if self.task != "pairs" and source.target_key is not None:
                raise UserError(
                    f"data.target_key is {source.target_key}, and the task {self.task} reads no "
                    "targets; add --data.task pairs, or take the key back."
                )
        if self.task in DIAGNOSTICS and (
            self.mixture or self.files or self.dataset != "python_stdlib" or self.scripts
        ):
            raise UserError(
                f"the task {self.task} makes up its own text; leave out data.dataset, data.files, "
                "data.mixture and data.scripts."
            )

    def _check_target_length(self) -> None:
        least_inputs = 3 if self.task == "span_corruption" else 2 if self.task in DIAGNOSTICS else 1
        if self.sequence_length < least_inputs:
            raise UserError(
                f"data.sequence_length is {self.sequence_length}; choose {least_inputs} or more "
                f"for the task {self.task}."
            )
        if self.task == "next_byte" and self.target_length is not None:
            raise UserError(
                f"data.target_length is {self.target_length}, and the task next_byte has no "
                "targets of another length; leave it out."
            )
        if self.task == "span_corruption":
            raw, _ = lengths(self.sequence_length, self.noise_density, self.mean_span)
            spans = span_counts(raw, self.noise_density, self.mean_span)[1]
            if spans > SENTINELS:
                raise UserError(
                    f"data.sequence_length {self.sequence_length} and data.mean_span "
                    f"{self.mean_span} make {spans} spans in a row, and there are {SENTINELS} "
                    "sentinels to stand for them; choose shorter rows or longer spans."
                )
        least_targets = 1 if self.task == "pairs" else self._own_row_length
        if self.target_length is not None and self.target_length < least_targets:
            raise UserError(
                f"data.target_length is {self.target_length}; choose {least_targets} or more for "
                f"the task {self.task} of this data.sequence_length, or leave it out."
            )

    @property
    def row_length(self) -> int:
        """T, the symbols that a row scores at most."""
        return self._own_row_length if self.target_length is None else self.target_length

    @property
    def _own_row_length(self) -> int:
        """T where no `target_length` is given."""
        if self.task == "span_corruption":
            return lengths(self.sequence_length, self.noise_density, self.mean_span)[1]
        return self.sequence_length

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
        try:
            return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bytelm"
        except RuntimeError:
            raise UserError(
                "there is no place for the cache, since this user has no home directory; name one "
                "with --data.cache-dir or the variable BYTELM_CACHE."
            ) from None
