"""What an ablation file declares: one config, changed in a few fields for each of several points.

Every point runs with every seed. Where there are several learning rates, each point first tries
all of them with the first seed, and keeps the one with the fewest validation bits.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bytelm.core.checked import Checked
from bytelm.core.errors import UserError
from bytelm.experiments.changes import changed
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.experiment import ExperimentConfig, saved_form


@dataclass(frozen=True)
class Ablation(Checked, name="ablation"):
    """What an ablation file defines.

    Attributes:
        base: what all points have in common.
        points: by the point's name, its changes to the base: a config field's dotted path
            (`model.boundary`, or `model` for all of it) and its value.
        baseline: the point from which differences are taken; None for the first.
        seeds: every point runs with each; none for the seed of the point's config alone.
        learning_rates: multiples of its own learning rate that every point tries.

    Raises:
        UserError: for no points, a name that no directory can have, or a change that is none.
    """

    base: ExperimentConfig
    points: Mapping[str, Mapping[str, Any]]
    baseline: str | None = None
    seeds: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.points:
            raise UserError("the ablation has no points; give at least one.")
        for name in self.points:
            if not re.fullmatch(r"\w[\w.+-]*", name):
                raise UserError(
                    f"the ablation has a point {name!r}; a directory gets that name, so use "
                    "letters, digits and . _ + - alone."
                )
        if self.baseline is not None and self.baseline not in self.points:
            raise UserError(
                f"the baseline {self.baseline!r} is no point of the ablation; it must be one of "
                f"{', '.join(self.points)}."
            )
        for what in ("seeds", "learning_rates"):
            values = getattr(self, what)
            if len(set(values)) < len(values):
                raise UserError(f"the ablation names one of its {what} twice: {values}.")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UserError(
                f"the ablation has the learning_rates {self.learning_rates}; give multiples above "
                "0, such as 0.5 1 2."
            )
        if self.seeds and (varied := [n for n, c in self.points.items() if "train.seed" in c]):
            raise UserError(
                f"the ablation has seeds for all points, and point {varied[0]} changes train.seed; "
                "leave out one of them."
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
            run.name
            for point in self.points
            for multiple in self.learning_rates
            for run in self.runs_of(point, multiple)
        )
        if twice := [name for name, count in names.items() if count > 1]:
            raise UserError(
                f"two runs of the ablation would share the directory {twice[0]}; rename a point."
            )

    @property
    def configs(self) -> dict[str, ExperimentConfig]:
        """The config of each point."""
        configs = {}
        for name, changes in self.points.items():
            try:
                configs[name] = saved_form(changed(self.base, changes))
            except UserError as error:
                raise UserError(f"point {name} of the ablation: {error}") from None
        return configs

    @property
    def reference(self) -> str:
        """The point from which differences are taken."""
        return self.baseline or next(iter(self.points))

    @property
    def has_encoder(self) -> bool:
        """Whether the points' models have an encoder, so that targets are what is measured."""
        return isinstance(self.configs[self.reference].model, EncoderDecoderConfig)

    def runs_of(self, point: str, multiple: float) -> list["PointRun"]:
        """The runs of a point at a multiple of its learning rate, one for each seed."""
        config = self.configs[point]
        rate = config.optimizer.learning_rate * multiple
        runs = []
        for seed in self.seeds or (config.train.seed,):
            name = point
            name += f"-lr{multiple:g}" if len(self.learning_rates) > 1 else ""
            name += f"-s{seed}" if len(self.seeds) > 1 else ""
            changes = {"optimizer.learning_rate": rate, "train.seed": seed}
            runs.append(PointRun(point, seed, multiple, changed(config, changes), name))
        return runs


@dataclass(frozen=True)
class PointRun:
    """One run of an ablation.

    Attributes:
        contender: the point.
        seed: of the run.
        multiple: of the point's learning rate.
        config: of the run.
        name: of its directory.
    """

    contender: str
    seed: int
    multiple: float
    config: ExperimentConfig
    name: str
