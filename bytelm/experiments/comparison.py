"""What a comparison file declares: models, an axis to match, budgets, seeds and corpora.

Sizes follow from the accounting of FLOPs. On the axes `train_flops` and `raw_bytes` a budget says
how many steps a run has; on `inference_flops` it says which of a contender's sizes is taken, and
all runs read `raw_bytes` bytes.

Learning rates favour no side: every contender tries the same multiples of its own rate at the
smallest budget, on the first corpus, with the first seed. The multiple with the fewest validation
bits per byte is kept at all budgets, corpora and seeds.
"""

import dataclasses
import glob
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, NextByte
from bytelm.evaluation.perturbations import NOISES, Noise
from bytelm.experiments.changes import changed
from bytelm.experiments.record import Axis
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.tokenizers import Kind as TokenizerKind
from bytelm.training.experiment import ExperimentConfig, saved_form

TOLERANCE = 0.1
"""How far from an inference budget, as a share, the nearest size may be."""


@dataclass(frozen=True)
class TokenizerConfig(Checked, name="tokenizer"):
    """A tokenizer that is trained on the train split of each corpus."""

    kind: TokenizerKind = "bpe"
    """Byte-level BPE, SuperBPE, or SentencePiece's Unigram."""
    size: int = 4096
    """Tokens."""
    max_bytes: int | None = None
    """Most bytes of text to train it on; None for all there is, up to 100 MB."""


@dataclass(frozen=True)
class Contender(Checked, name="contender"):
    """A model of a comparison.

    Attributes:
        config: of its runs, but for the text, the steps and the seed.
        tokenizer: of a subword model; None for one of bytes.
        sizes: changes to the config (as an ablation's), of which an inference budget takes the
            nearest; on other axes there is one.
        at: further changes at a budget.
    """

    config: ExperimentConfig
    tokenizer: TokenizerConfig | None = None
    sizes: tuple[Mapping[str, Any], ...] = ({},)
    at: Mapping[float, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Robustness(Checked, name="robustness"):
    """Perturbed text that the runs of the largest budget are tested on.

    Attributes:
        kinds: of perturbations, see `bytelm.evaluation.perturbations`.
        rates: shares of the characters that are hit.
        max_bytes: of test text, as many from the beginning of each tested document.
    """

    kinds: tuple[Noise, ...] = NOISES
    rates: tuple[float, ...] = (0.05, 0.15)
    max_bytes: int = 40_000


@dataclass(frozen=True)
class Comparison(Checked, name="comparison"):
    """What a comparison file defines.

    Attributes:
        title: of the report.
        contenders: by name.
        baseline: the contender that the others are compared with.
        budgets: on the axis: FLOPs of training, bytes of text, or FLOPs of inference for a byte.
        corpora: by name; `task` and the lengths of rows are the contenders' own. Files may be
            relative to a directory that the command line names.
        axis: what is matched.
        seeds: of each run.
        learning_rates: multiples of each contender's own rate that are tried.
        raw_bytes: of training text, on the axis `inference_flops`.
        shard_bytes: bytes of the shards in which all contenders read the same text.
        max_bytes: the test is so many bytes, and its last document is cut; None for all.
        robustness: what perturbations to test; None for none.
        parallel: files of parallel text (`bytelm.evaluation.languages`) to test; none = no test.
        adaptation: by name, corpora on which the runs of the largest budget go on training, for as
            long as those took; each is then tested on both.
        timed_steps: training steps of each contender that are timed in turns, and their memory
            told, when all runs are done; 0 for none.

    Raises:
        UserError: for what cannot be compared.
    """

    title: str
    contenders: Mapping[str, Contender]
    baseline: str
    budgets: tuple[float, ...]
    corpora: Mapping[str, DataConfig]
    axis: Axis = "train_flops"
    seeds: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = (1.0,)
    raw_bytes: float | None = None
    shard_bytes: int = 1024
    max_bytes: int | None = None
    robustness: Robustness | None = None
    parallel: tuple[str, ...] = ()
    adaptation: Mapping[str, DataConfig] = field(default_factory=dict)
    timed_steps: int = 5

    def __post_init__(self) -> None:
        for what in ("contenders", "budgets", "corpora", "seeds", "learning_rates"):
            values = getattr(self, what)
            if not values:
                raise UserError(f"the comparison has no {what}; give at least one.")
            if len(set(values)) < len(values):
                raise UserError(f"the comparison names one of its {what} twice: {values}.")
        for name in (*self.contenders, *self.corpora, *self.adaptation):
            if not re.fullmatch(r"\w[\w.+]*", name):
                raise UserError(
                    f"the comparison has the name {name!r}; a directory gets it, so use letters, "
                    "digits and . _ + alone."
                )
        if both := set(self.corpora) & set(self.adaptation):
            raise UserError(
                f"the comparison has corpora and adaptations of one name ({', '.join(both)}); "
                "rename one of each two."
            )
        folded = [name.casefold() for name in self.contenders]
        if twice := [name for name in self.contenders if folded.count(name.casefold()) > 1]:
            raise UserError(
                f"the comparison has contenders of one name ({', '.join(twice)}); their runs would "
                "share a directory on some disks, so rename one."
            )
        if self.baseline not in self.contenders:
            raise UserError(
                f"the baseline {self.baseline!r} is no contender; it must be one of "
                f"{', '.join(self.contenders)}."
            )
        if min(self.budgets) <= 0 or min(self.learning_rates) <= 0:
            raise UserError("budgets and learning_rates of the comparison must be above 0.")
        if (self.axis == "inference_flops") != (self.raw_bytes is not None):
            raise UserError(
                "raw_bytes says how much text is read on the axis inference_flops, and only there; "
                "give both or neither."
            )
        for name, contender in self.contenders.items():
            if isinstance(contender.config.model, EncoderDecoderConfig):
                raise UserError(
                    f"contender {name} has an encoder: its bits per target byte and bits per byte "
                    "cannot be compared; use an ablation for encoder-decoders."
                )
            if len(contender.sizes) > 1 and self.axis != "inference_flops":
                raise UserError(
                    f"contender {name} has several sizes, and the axis is {self.axis}; give one, "
                    "or changes with `at`."
                )


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
        contender, corpus: their names.
        budget: on the axis.
        seed: of the run.
        multiple: of the contender's learning rate.
        config: of the run; the steps are those of the budget.
        flops_per_step: of training.
        bytes_per_step: of text, on average.
        initial: the run that this one goes on from, on other text; None for a fresh one.
    """

    contender: str
    corpus: str
    budget: float
    seed: int
    multiple: float
    config: ExperimentConfig
    flops_per_step: float
    bytes_per_step: float
    initial: "Run | None" = None

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.contender}-{self.corpus}-{self.budget:g}-lr{self.multiple:g}-s{self.seed}"


def contender_config(
    comparison: Comparison, name: str, corpus: DataConfig, tokenizer: Path | None, budget: float
) -> ExperimentConfig:
    """A contender's config on a corpus, without the steps and the learning rate of a run.

    Args:
        tokenizer: file of the contender's tokenizer for the corpus; None for bytes.
    """
    contender = comparison.contenders[name]
    own = contender.config.data
    task = cast(NextByte, own.task)
    try:
        data = dataclasses.replace(
            corpus,
            sequence_length=own.sequence_length,
            batch_size=own.batch_size,
            workers=own.workers,
            task=dataclasses.replace(
                task,
                tokenizer=None if tokenizer is None else str(tokenizer),
                shard_bytes=comparison.shard_bytes,
            ),
        )
        return saved_form(changed(contender.config, {"data": data, **contender.at.get(budget, {})}))
    except UserError as error:
        raise UserError(f"contender {name} of the comparison: {error}") from None


def below(comparison: Comparison, root: Path) -> Comparison:
    """The comparison with its relative files below the directory `root`.

    Raises:
        UserError: for files that are not there.
    """

    def files(names: Iterable[str]) -> tuple[str, ...]:
        paths = tuple(str(root / name) for name in names)
        for path in paths:
            if not glob.glob(path):
                raise UserError(
                    f"the comparison reads {path}, and no file matches that; name the directory "
                    "that has its files with --root."
                )
        return paths

    def text(data: DataConfig) -> DataConfig:
        return dataclasses.replace(data, source=data.source.with_files(files))

    return dataclasses.replace(
        comparison,
        corpora={name: text(data) for name, data in comparison.corpora.items()},
        adaptation={name: text(data) for name, data in comparison.adaptation.items()},
        parallel=files(comparison.parallel),
    )
