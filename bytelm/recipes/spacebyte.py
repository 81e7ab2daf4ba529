"""Training recipes of published papers, for the presets in `configs/`.

SpaceByte (arXiv 2404.14408, appendix B; figures checked against its code): contexts of T = 6 D
bytes (8 D on GitHub) with slots for D patches, batches of 64, and as many steps as the budget of
training FLOPs pays for, as the authors count FLOPs.
"""

from typing import Any

from bytelm.data.config import DataConfig, Tfds
from bytelm.models import ModelConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.nn.roles import ROLES
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

BATCH = 64
CODE_LEARNING_RATE = 0.005 * BATCH**0.5
"""0.04, from the authors' code and the commands that reproduce the paper. Its appendix B.2 has
0.005 * BATCH**-0.5, which is 0.000625."""
_LAYERS: Any = {
    "norm": "layer",
    "mlp": "relu",
    "qk_norm": True,
    "rope_theta": None,
    "scaled_init": False,
    "remat": "dots",
}


def spacebyte(
    *,
    global_width: int,
    local_width: int,
    global_depth: int,
    local_depth: int,
    budget: float | None = None,
    bytes_seen: float | None = None,
    sequence_length: int | None = None,
    patches: int | None = None,
) -> ExperimentConfig:
    """A run of SpaceByte as published, on PG-19.

    Args:
        budget: training FLOPs that decide the number of steps; or
        bytes_seen: training bytes that decide it.
        sequence_length: T; None for 6 D.
        patches: slots for patches in a row; None for D.
    """
    length, slots = sequence_length or 6 * global_width, patches or global_width
    model = SpaceByteConfig(
        local_width=local_width,
        local_depth=local_depth,
        global_width=global_width,
        global_depth=global_depth,
        bytes_per_slot=length / slots,
        learned_positions=length,
        **_LAYERS,
    )
    if bytes_seen is not None:
        return _experiment(model, length, bytes_seen / (BATCH * length))
    return _experiment(
        model, length, (budget or 0) / _step_flops(model, length, slots, local_width)
    )


def megabyte(
    *,
    patch_size: int,
    global_width: int,
    local_width: int,
    global_depth: int,
    local_depth: int,
    budget: float,
) -> ExperimentConfig:
    """A run of MegaByte as SpaceByte's authors trained it, on PG-19: T = P x D."""
    length = patch_size * global_width
    model = MegaByteConfig(
        patch_size=patch_size,
        global_width=global_width,
        global_depth=global_depth,
        local_width=local_width,
        local_depth=local_depth,
        learned_positions=length,
        **_LAYERS,
    )
    flops = _step_flops(model, length, length // patch_size, patch_size)
    return _experiment(model, length, budget / flops)


def _step_flops(
    model: SpaceByteConfig | MegaByteConfig, length: int, slots: int, local_window: int
) -> float:
    """Training FLOPs of a batch, as the paper counts them."""

    def block(positions: int, width: int, window: int) -> int:
        return positions * (12 * width**2 + 2 * width * window)

    local = model.local_depth * block(length, model.local_width, local_window)
    backbone = model.global_depth * block(slots, model.global_width, slots)
    head = length * model.local_width * 256
    return BATCH * 3 * 2 * (local + backbone + head)


def _experiment(model: ModelConfig, length: int, steps: float) -> ExperimentConfig:
    """A run with AdamW, which multiplies the learning rate of every linear layer by d_in^-1/2."""
    optimizer = AdamW(
        learning_rate=CODE_LEARNING_RATE,
        schedule="quarter_cosine",
        warmup=0.01,
        final=0.0,
        beta2=0.98,
        weight_decay=0.01,
        decayed=ROLES,
        clip_norm=1.0,
        fan_in_scaling=True,
    )
    return ExperimentConfig(
        model=model,
        data=DataConfig(
            source=Tfds(dataset="pg19"), sequence_length=length, batch_size=BATCH, workers=4
        ),
        optimizer=optimizer,
        train=TrainConfig(
            steps=round(steps), validate_every=1000, checkpoint_every=1000, log_every=20, keep=2
        ),
    )
