"""The options of the commands of `bytelm`, as `bytelm.cli.main` reads them.

`bytelm segment` and `bytelm ablate` have theirs beside what they do.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bytelm.cli.option_checks import Bounds, Count
from bytelm.data.config import DataConfig
from bytelm.tokenizers import Kind
from bytelm.training.checkpoints.chosen_step import Step
from bytelm.training.experiment import ExperimentConfig


@dataclass(frozen=True)
class TrainCommand:
    """Trains a model from a config."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Where the run is written; none = the first free of runs/PRESET, runs/PRESET-2, ..."""
    resume: bool = False
    """Go on from the last checkpoint in --run-dir, or start there if it has none."""
    step: int | None = None
    """With --resume: go on from this checkpoint, and set the later ones aside."""
    verify: bool = True
    """Whether checkpoints are compared with their digests before they are used."""
    allow_config_change: bool = False
    """Resume though fields that change the outcome differ from the run's saved config."""
    dry_run: bool = False
    """Check the config, tell what the run would be and cost, and stop; only text is packed."""
    print_config: bool = False
    """Print the resolved config as JSON and do nothing."""
    report: bool = False
    """When done, evaluate the test split beside gzip and xz."""
    distributed: bool = False
    """Join the other processes of this cluster job, found from its environment."""
    coordinator: str | None = None
    """Join the processes that name this host:port of process 0."""
    num_processes: int | None = None
    """With --coordinator: how many processes there are."""
    process_id: int | None = None
    """With --coordinator: which of them this is, from 0."""


@dataclass(frozen=True)
class EvalCommand:
    """Scores a checkpoint: exact bits per byte over whole documents."""

    data: DataConfig
    checkpoint: Path
    """The run directory."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    verify: bool = True
    """Whether the checkpoint is compared with its digests."""
    split: str | None = None
    """Which split: train, validation or test; none = validation, or all documents of other
    --data.files. Documents that the run read keep the splits that they had there."""
    stride: Count | None = None
    """Symbols that each window scores, with the rest as context; none = half a row."""
    batch_size: Count = 16
    """Windows scored at once."""
    max_bytes: Count | None = None
    """Score so many bytes from the beginning: the last document is cut, and its END does not count;
    none = all of the split. With an encoder: stop after the row that reaches so many inputs."""
    output: Path | None = None
    """The new file of the JSON report; none = in the run directory, named after the settings."""
    byte_marginal: bool = False
    """Also add up the probabilities of all tokenisations, for a subword model."""
    covers: Count = 32
    """With --byte-marginal: token histories that are kept at each byte; more are slower, and lose
    less."""


@dataclass(frozen=True)
class GenerateCommand:
    """Continues prompts with a checkpoint."""

    checkpoint: Path
    """The run directory."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    verify: bool = True
    """Whether the checkpoint is compared with its digests."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue, or inputs of an encoder, all in one batch; - reads one from standard
    input, as bytes."""
    max_bytes: Annotated[int, Bounds(0, 2**31 - 1)] = 256
    """Longest continuation."""
    temperature: float = 1.0
    """Sharpness of the choice; 0 always takes the likeliest byte."""
    top_k: Count | None = None
    """Choose among the k likeliest bytes."""
    top_p: float | None = None
    """Choose among the likeliest bytes that together have this probability."""
    min_p: float | None = None
    """Choose among bytes with at least this fraction of the likeliest one's probability."""
    stop: tuple[str, ...] = ()
    """Texts that end a continuation; they are not part of it."""
    seed: Annotated[int, Bounds(0, 2**31 - 1)] = 0
    """Seed of the choice."""
    byte_marginal: bool = False
    """Choose byte by byte, by the probabilities of all tokenisations, for a subword model: a prompt
    may end within a token."""
    covers: Count = 32
    """With --byte-marginal: token histories that are kept at each byte."""
    beams: Count = 1
    """Candidates of a beam search for the best target, in a family with an encoder; 1 for none."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which weights are held; bfloat16 is faster."""
    raw: bool = False
    """Write the continuation's bytes as they are and nothing else, in place of valid UTF-8; for one
    prompt."""


@dataclass(frozen=True)
class DescribeCommand:
    """Describes the documents of a source."""

    data: DataConfig
    samples: Annotated[int, Bounds(0)] = 3
    """Documents shown from each split."""


@dataclass(frozen=True)
class CacheCommand:
    """Lists the cache: sizes, when each entry was last used, its state, its name, what it holds."""

    cache_dir: Path | None = None
    """The cache; none = the one that training uses without --data.cache-dir."""
    verify: bool = False
    """Read everything and compare it with its digests; what is damaged is made again when it is
    next needed."""
    remove: tuple[str, ...] = ()
    """Names of entries to remove, or their beginnings; what a process uses is kept."""
    remove_unused: float | None = None
    """Remove what was not used for so many days; 0 for all that nobody uses now."""


@dataclass(frozen=True)
class UnigramCommand:
    """Trains a SentencePiece Unigram model on the train split, for data.unigram."""

    data: DataConfig
    pieces: Count = 10_000
    """Most pieces of the model; a small text gives fewer."""
    output: Path = Path("unigram.model")
    """Where the model goes; a file that exists is left alone."""
    max_bytes: Count = 20_000_000
    """Most bytes of text to train on, of documents in random order."""


@dataclass(frozen=True)
class TokenizerCommand:
    """Trains a subword tokenizer on the train split, for data.tokenizer."""

    data: DataConfig = field(default_factory=DataConfig)
    kind: Kind = "bpe"
    """`bpe`: byte-level, within words; `superbpe`: then across words too; `unigram`:
    SentencePiece's, with byte fallback."""
    size: Count = 8192
    """Number of tokens, the 256 bytes among them."""
    max_bytes: Count = 100_000_000
    """Most bytes of text to train on, of documents in random order."""
    transition: float = 0.8
    """Share of its tokens that SuperBPE makes within words."""
    output: Path | None = None
    """The new file; none = KIND-SIZE.json, or KIND-SIZE.model of SentencePiece."""


@dataclass(frozen=True)
class RatesCommand:
    """Measures FLEXITOKENS' rate and deviation of each script on parallel text.

    The text must be parallel: the same documents in every script, each with its script named. A
    script's rate is the anchor's times the ratio of their mean bytes per document.
    """

    data: DataConfig
    anchor: str = "eng"
    """The script whose rate is given."""
    rate: float = 0.333
    """Boundaries per byte of the anchor."""


@dataclass(frozen=True)
class ProfileCommand:
    """Traces a few training steps."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    trace_dir: Path = Path("trace")
    """Where the trace is written (for TensorBoard or Perfetto)."""
    steps: Count = 5
    """Steps traced, after two that are not."""


@dataclass(frozen=True)
class ConvertCommand:
    """Writes a model as safetensors, or converts ByT5 and MrT5 from and to Hugging Face's T5."""

    from_hf: str | None = None
    """Folder, or name of a model on the Hugging Face hub, to make a run of."""
    output: Path | None = None
    """With --from-hf: the run directory to write."""
    to_hf: Path | None = None
    """Folder to write, which `transformers` loads."""
    checkpoint: Path | None = None
    """With --to-hf and --to-safetensors: the run directory to read."""
    step: Step | None = None
    """With --to-hf and --to-safetensors: which checkpoint: a step, or `best` in validation; none =
    the last."""
    to_safetensors: Path | None = None
    """Folder to write a model of any family to, which `bytelm.load` and all commands read."""
