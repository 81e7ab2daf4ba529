"""Spelling correction at equal steps: ByT5, MrT5 at two targets, and the baselines of its paper.

Name JSON lines with the keys `typo` and `fix` with `--data.files`, `--data.validation-files` and
`--data.test-files`.
"""

from dataclasses import fields

from bytelm.experiments.ablation import Ablation
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import (
    BoundaryShortening,
    ConvolutionShortening,
    FixedShortening,
    GateShortening,
    RandomShortening,
    ShorteningConfig,
)
from bytelm.training.presets import load_preset

base = load_preset("byt5_spelling")


def shortened(shortening: ShorteningConfig) -> dict[str, MrT5Config]:
    """The base's model with rows that are shortened after the first block."""
    sizes = {field.name: getattr(base.model, field.name) for field in fields(base.model)}
    return {"model": MrT5Config(**sizes, gate_depth=1, shortening=shortening)}


ablation = Ablation(
    base=base,
    contenders={
        "byt5": {"train.seed": 0},
        "mrt5-30": shortened(GateShortening(target=0.3, integral=1e-3, score_weight=0.5)),
        "mrt5-50": shortened(GateShortening(target=0.5, integral=1e-3, score_weight=0.5)),
        "random-30": shortened(RandomShortening(ratio=0.3)),
        "fixed-30": shortened(FixedShortening(ratio=0.3)),
        "boundary": shortened(BoundaryShortening()),
        "convolution": shortened(ConvolutionShortening(stride=2)),
    },
)
