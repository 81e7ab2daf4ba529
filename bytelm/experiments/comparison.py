"""The declaration of a comparison: models, an axis to match, budgets, seeds and corpora.

Lengths of runs follow from counting FLOPs. On the axes `train_flops` and `raw_bytes` a budget
decides the steps of a run; on `inference_flops` it decides which of a contender's sizes is taken,
and all runs read `raw_bytes` bytes.

No contender has an advantage in learning rates: each tries the same multiples of its own rate at
the smallest budget, on the first corpus, with the first seed. The multiple with the fewest
validation bits per byte is kept at all budgets, corpora and seeds.
"""

import dataclasses
import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError
from bytelm.core.places import is_address_text
from bytelm.data.config import DataConfig
from bytelm.evaluation.robustness import Robustness
from bytelm.experiments.contenders import check_lists, check_names
from bytelm.experiments.records import Axis
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.tokenizers import Kind as TokenizerKind
from bytelm.training.experiment import ExperimentConfig


@dataclass(frozen=True)
class TokenizerConfig(Checked, name="tokenizer"):
    """A tokenizer, trained on the train split of each corpus."""

    kind: TokenizerKind = "bpe"
    """Byte-level BPE, SuperBPE, or SentencePiece's Unigram."""
    size: int = 4096
    """Tokens."""
    max_bytes: int | None = None
    """Most bytes of text to train it on; None for the whole corpus, up to 100 MB."""


@dataclass(frozen=True)
class Contender(Checked, name="contender"):
    """A model of a comparison.

    Attributes:
        config: of its runs, without the text, the steps and the seed.
        tokenizer: of a subword model; None for a byte model.
        sizes: changes to the config, as in an ablation; an inference budget takes the nearest of
            these sizes. On other axes there is one.
        at: further changes at a budget.
    """

    config: ExperimentConfig
    tokenizer: TokenizerConfig | None = None
    sizes: tuple[Mapping[str, Any], ...] = ({},)
    at: Mapping[float, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison(Checked, name="comparison"):
    """The content of a comparison file.

    Attributes:
        title: of the report.
        contenders: by name.
        baseline: the contender that the others are compared with.
        budgets: on the axis: training FLOPs, bytes of text, or inference FLOPs per byte.
        corpora: by name; contenders set `task` and the lengths of rows. Files may be relative to
            the directory `--root`.
        axis: the quantity that is equal for all contenders.
        seeds: every contender runs with each.
        learning_rates: multiples of its own learning rate that every contender tries.
        raw_bytes: of training text, on the axis `inference_flops`.
        shard_bytes: of the shards of text that all contenders read in the same order.
        max_bytes: bytes that are tested on, the last document cut; None for the whole test split.
        robustness: noise to test the runs of the largest budget with; None for none.
        robustness_bytes: of test text with noise, equally many from the start of each document.
        parallel: files of parallel text (`bytelm.evaluation.languages`) to test; empty for none.
        adaptation: by name, corpora on which the runs of the largest budget continue to train, for
            as many steps again; each is then tested on both.
        timed_steps: training steps of each contender that are timed in turns, and whose memory is
            measured, when all runs are done; 0 for none.

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
    robustness_bytes: int = 40_000
    parallel: tuple[str, ...] = ()
    adaptation: Mapping[str, DataConfig] = field(default_factory=dict)
    timed_steps: int = 5

    def __post_init__(self) -> None:
        lists = ("contenders", "budgets", "corpora", "seeds", "learning_rates")
        check_lists("comparison", **{name: getattr(self, name) for name in lists})
        self._check_names()
        if (self.axis == "inference_flops") != (self.raw_bytes is not None):
            raise UserError(
                "raw_bytes is the amount of training text on the axis inference_flops, and only "
                "there; give both or neither."
            )
        for name, contender in self.contenders.items():
            self._check_contender(name, contender)

    @property
    def runs_each(self) -> int:
        """How many final runs each contender has."""
        return len(self.budgets) * len(self.corpora) * len(self.seeds)

    def _check_names(self) -> None:
        texts = (*self.corpora, *self.adaptation)
        check_names("comparison", self.baseline, self.contenders, texts, marks="._+")
        if both := set(self.corpora) & set(self.adaptation):
            raise UserError(
                f"the comparison has corpora and adaptations of one name ({', '.join(both)}); "
                "rename them."
            )
        folded = [name.casefold() for name in self.contenders]
        if twice := [name for name in self.contenders if folded.count(name.casefold()) > 1]:
            raise UserError(
                f"the comparison has contenders of one name ({', '.join(twice)}); their runs would "
                "share a directory on some disks, so rename one."
            )

    def _check_contender(self, name: str, contender: Contender) -> None:
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


def in_folder(comparison: Comparison, root: Path) -> Comparison:
    """The comparison with its relative files in the directory `root`.

    Raises:
        UserError: for files that do not exist.
    """

    def files(names: Iterable[str]) -> tuple[str, ...]:
        paths = tuple(name if is_address_text(name) else str(root / name) for name in names)
        for path in paths:
            if not is_address_text(path) and not glob.glob(path):
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
