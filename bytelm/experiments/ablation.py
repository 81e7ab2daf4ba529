"""The declaration of an ablation: one config, with a few fields changed for each contender.

Every contender runs with every seed. If there are several learning rates, each contender first
tries all of them with the first seed, and keeps the one with the fewest validation bits.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError
from bytelm.experiments.contenders import changed, check_lists, check_names
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.experiment import ExperimentConfig, saved_form


@dataclass(frozen=True)
class Ablation(Checked, name="ablation"):
    """The content of an ablation file.

    Attributes:
        base: the config that contenders change.
        contenders: by name, the changes to the base: a config field's dotted path
            (`model.segmenter`, or `model` for all of it) and its value.
        baseline: the contender that the others are compared with; None for the first.
        seeds: every contender runs with each; empty for the seed of its config alone.
        learning_rates: multiples of its own learning rate that every contender tries.

    Raises:
        UserError: for no contenders, a name that no directory can have, or an invalid change.
    """

    base: ExperimentConfig
    contenders: Mapping[str, Mapping[str, Any]]
    baseline: str | None = None
    seeds: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        check_lists(
            "ablation",
            contenders=self.contenders,
            seeds=self.seeds or (0,),
            learning_rates=self.learning_rates,
        )
        check_names("ablation", self.reference, self.contenders, marks="._+-")
        varied = [name for name, changes in self.contenders.items() if "train.seed" in changes]
        if self.seeds and varied:
            raise UserError(
                f"the ablation has seeds for all contenders, and contender {varied[0]} changes "
                "train.seed; leave out one of them."
            )
        self._check_configs()

    def _check_configs(self) -> None:
        configs = self.configs
        if len({isinstance(c.model, EncoderDecoderConfig) for c in configs.values()}) > 1:
            raise UserError(
                "the ablation has families with and without an encoder: bits per target byte and "
                "bits per byte cannot be compared; make an ablation of each kind."
            )
        names = Counter(
            self.run_name(contender, multiple, seed)
            for contender in self.contenders
            for multiple in self.learning_rates
            for seed in self.seeds or (0,)
        )
        if twice := [name for name, count in names.items() if count > 1]:
            raise UserError(
                f"two runs of the ablation would share the directory {twice[0]}; rename a "
                "contender."
            )

    @property
    def configs(self) -> dict[str, ExperimentConfig]:
        """The config of each contender."""
        configs = {}
        for name, changes in self.contenders.items():
            try:
                configs[name] = saved_form(changed(self.base, changes))
            except UserError as error:
                raise UserError(f"contender {name} of the ablation: {error}") from None
        return configs

    @property
    def reference(self) -> str:
        """The baseline's name."""
        return self.baseline or next(iter(self.contenders))

    @property
    def has_encoder(self) -> bool:
        """Whether the models have an encoder, so that bits are of targets."""
        return isinstance(self.configs[self.reference].model, EncoderDecoderConfig)

    @property
    def runs_each(self) -> int:
        """How many final runs each contender has."""
        return len(self.seeds) or 1

    def run_name(self, contender: str, multiple: float, seed: int) -> str:
        """The name of a run's directory."""
        rate = f"-lr{multiple:g}" if len(self.learning_rates) > 1 else ""
        return f"{contender}{rate}" + (f"-s{seed}" if len(self.seeds) > 1 else "")
