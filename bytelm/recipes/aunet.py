"""AU-Net's published runs (arXiv 2506.14761), and its laws of batch size and learning rate.

Rows of 8192 bytes, AdamW with all parameters decayed, gradients clipped to 0.2, a warm-up of 10,000
steps and a cosine. The two runs of a billion in the authors' code have `learning_rate`, steps and
slots from there. The paper has the widths and depths of the others, and for the largest its MLPs
and learning rate; their slots are made like those of the code, a few more than English prose fills,
and what else is missing follows the laws. Numbers of rows are such that a run reads the paper's
text, 370 (for the largest 200) billion tokens of 4.56 bytes. The text was DCLM; here it is C4.

    python -m bytelm.recipes.aunet PRESET      # what the laws say about a preset's run
"""

import sys
from collections.abc import Sequence

from bytelm.core.errors import UserError
from bytelm.core.figure import with_prefix
from bytelm.core.terminal_text import say
from bytelm.data.config import DataConfig, Tfds
from bytelm.models.aunet import AUNetConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.nn.roles import ROLES
from bytelm.training.cost import step_flops
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW
from bytelm.training.presets import load_preset

LENGTH = 8192
WARMUP = 10_000
"""Steps."""


def law_batch_bytes(flops: float) -> float:
    """Bytes of a batch for a run of so many training FLOPs."""
    return 0.66 * flops**0.321


def law_learning_rate(flops: float) -> float:
    """The peak learning rate for a run of so many training FLOPs."""
    return 6.6 * flops**-0.176


def aunet(
    *,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    slots: tuple[int, ...],
    learning_rate: float,
    final: float,
    steps: int,
    rows: int,
    mlp_widths: tuple[int, ...] | None = None,
    fsdp: int = 1,
) -> ExperimentConfig:
    """A run as published.

    Args:
        slots: for the patches of each level in a row.
        final: the learning rate at the last step, as a fraction of the peak.
        mlp_widths: None for 8/3 of the widths, up to multiples of 256.
    """
    symbols = (LENGTH, *slots)
    per_slot = [outer / inner for outer, inner in zip(symbols, slots, strict=False)]
    model = AUNetConfig(
        widths=widths,
        depths=depths,
        windows=(512,) + (4096,) * (len(widths) - 1),
        head_widths=(64,) + (128,) * (len(widths) - 1),
        mlp_widths=mlp_widths or tuple(256 * -(-(8 * width // 3) // 256) for width in widths),
        bytes_per_slot=per_slot[0],
        patches_per_slot=tuple(per_slot[1:]),
        rope_theta=500_000.0,
        qk_norm=False,
        scaled_init=False,
        remat="dots",
    )
    optimizer = AdamW(
        learning_rate=learning_rate,
        warmup=WARMUP / steps,
        final=final,
        weight_decay=0.1,
        decayed=ROLES,
        clip_norm=0.2,
    )
    return ExperimentConfig(
        model=model,
        data=DataConfig(
            source=Tfds(dataset="c4/en"), sequence_length=LENGTH, batch_size=rows, workers=8
        ),
        optimizer=optimizer,
        mesh=MeshConfig(fsdp=fsdp),
        train=TrainConfig(
            steps=steps, validate_every=2000, checkpoint_every=1000, log_every=20, keep=3
        ),
    )


def by_the_laws(config: ExperimentConfig) -> str:
    """What the laws say about a run, next to what its config has, in lines of text."""
    step_bytes = config.data.batch_size * config.data.sequence_length
    flops = config.train.steps * step_flops(config)
    columns = {
        "": ("config", "laws"),
        "batch": (with_prefix(step_bytes, "B"), with_prefix(law_batch_bytes(flops), "B")),
        "learning rate": (
            f"{config.optimizer.learning_rate:.3g}",
            f"{law_learning_rate(flops):.3g}",
        ),
    }
    head = (
        f"{flops:.3g} training FLOPs: {with_prefix(config.train.steps * step_bytes, 'B')} at "
        f"{with_prefix(flops / config.train.steps / step_bytes, 'FLOP')} a byte"
    )
    return "\n".join([head, *(f"{name:15}{a:>12}{b:>12}" for name, (a, b) in columns.items())])


def main(arguments: Sequence[str]) -> int:
    """Prints the laws for the run of a preset; returns the exit status."""
    try:
        if len(arguments) != 1:
            raise UserError("give one preset: python -m bytelm.recipes.aunet PRESET.")
        say(by_the_laws(load_preset(arguments[0])))
    except UserError as error:
        say(str(error), sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
