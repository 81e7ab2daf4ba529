"""Training recipe of H-Net (arXiv 2507.07955, section 3.1), for the presets in `configs/`.

100B tokens of FineWeb-Edu, about 4.6 bytes each, in rows of 8192 bytes and batches of 256; AdamW
with a linear warm-up over 10% of the steps and a decay over the last 20%, which the paper calls
inverse-square-root and does not write out: we read it as 1 - sqrt(x), the form in use with such
schedules. It states no betas, weight decay or clipping; those are ours. Each stage has its own
learning rate. The models for Chinese and for code have 46B tokens. The text here is C4, since TFDS
has no FineWeb-Edu.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from bytelm.data.config import DataConfig, Tfds
from bytelm.data.sources.source import SingleSource
from bytelm.models import ModelConfig
from bytelm.models.hnet import HNetConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.patching.router import RouterPatches
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

BYTES_PER_TOKEN = 4.6
"""Of GPT-2's tokens on FineWeb-Edu (N_GPT)."""
LENGTH, BATCH = 8192, 256
TOKENS, TOKENS_OF_OTHERS = 100e9, 46e9
"""Of English text, and of Chinese text or code."""
ENGLISH = Tfds(dataset="c4/en")
PUBLISHED_DECAY = (r"^(?!.*(mixer/norm/scale|convolution/bias|residual/bias)$)",)
"""`optimizer.decayed` as the authors' helper marks weights: all but biases of convolutions and of
the residual map, and the norm inside Mamba-2. It also decays the norms of blocks and stacks, the
recurrence's rates, skips and step biases, and embeddings, which its comment excludes, for it looks
for ".norm." in their names. Ours decays kernels alone, as in other families."""


def lr_multipliers(
    widths: Sequence[int], targets: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """Factors of the learning rates of the stages, for `optimizer.lr_multipliers`.

    A stage s has `sqrt(N_GPT * prod_{i >= s} N_i / prod_i N_i * D_S / D_s)`. The embedding and the
    head have the factor of the outermost stage.

    Args:
        widths: D of each stage, of the backbone last.
        targets: N of each stage but the backbone, the symbols per patch that it aims at.
    """
    factors = [
        (BYTES_PER_TOKEN * prod(targets[stage:]) / prod(targets) * widths[-1] / width) ** 0.5
        for stage, width in enumerate(widths)
    ]
    return published_multipliers(factors)


def published_multipliers(factors: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """`optimizer.lr_multipliers` for the factor of each stage, the outermost first."""
    inner = ((f"^stages/{stage}/", factor) for stage, factor in enumerate(factors) if stage)
    return (*inner, ("", factors[0]))


def hnet(
    *,
    layout: str,
    widths: tuple[int, ...],
    mlp_widths: tuple[int, ...],
    learning_rate: float,
    source: SingleSource = ENGLISH,
    tokens: float = TOKENS,
    **options: Any,
) -> ExperimentConfig:
    """A run of H-Net as published, with a router in each stage unless `options` say otherwise.

    Routers aim at 6 bytes per patch in one stage, and at 3 symbols in each of two.
    """
    stages = len(widths) - 1
    target = 6.0 if stages == 1 else 3.0
    model = HNetConfig(
        layout=layout,
        widths=widths,
        mlp_widths=mlp_widths,
        heads=(16,) * len(widths),
        remat="dots",
        **{"segmenter": RouterPatches(target=target), **options},
    )
    return run(
        model,
        learning_rate,
        lr_multipliers(widths, (target,) * stages),
        source=source,
        tokens=tokens,
    )


def run(
    model: ModelConfig,
    learning_rate: float,
    multipliers: tuple[tuple[str, float], ...] = (),
    *,
    source: SingleSource = ENGLISH,
    tokens: float = TOKENS,
) -> ExperimentConfig:
    """A run of any model with the paper's batches and schedule, over so many tokens of text."""
    return ExperimentConfig(
        model=model,
        data=DataConfig(source=source, sequence_length=LENGTH, batch_size=BATCH, workers=8),
        optimizer=AdamW(
            learning_rate=learning_rate,
            schedule="warmup_stable_sqrt_decay",
            warmup=0.1,
            decay=0.2,
            final=0.0,
            lr_multipliers=multipliers,
        ),
        mesh=MeshConfig(fsdp=8),
        train=TrainConfig(
            steps=round(tokens * BYTES_PER_TOKEN / (LENGTH * BATCH)),
            validate_every=2000,
            checkpoint_every=1000,
            log_every=20,
            keep=3,
        ),
    )
