"""The published entropy model of BLT (arXiv 2412.09871): 99.5M parameters, 52G bytes.

The shape and the schedule are those of the released model, which `bytelm.models.entropy_patches`
cuts with the default threshold; the paper's width of 512 is a mistake. Initial values and the text
(C4 in place of Meta's own) are ours, so the threshold for a mean length of patches is too: find it
with `bytelm data entropies`.

    bytelm train entropy_100m
"""

from bytelm.data.config import DataConfig, Tfds
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.roles import ROLES
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

STEPS = 100_000

config = ExperimentConfig(
    model=TransformerConfig(
        width=768,
        depth=14,
        head_width=64,
        mlp_width=2048,
        window=512,
        norm_epsilon=1e-5,
        remat="dots",
    ),
    data=DataConfig(source=Tfds(dataset="c4/en"), sequence_length=8192, batch_size=64, workers=8),
    optimizer=AdamW(
        learning_rate=4e-4, warmup=500 / STEPS, final=0.1, clip_norm=10.0, decayed=ROLES
    ),
    train=TrainConfig(
        steps=STEPS, validate_every=2000, checkpoint_every=1000, log_every=20, keep=2
    ),
)
