"""MambaByte as H-Net's paper trains it (size L): 28 Mamba-2 blocks of width 1024, 185M parameters.

Batches, steps, learning rate and warm-up are the paper's. Its text is FineWeb-Edu, and it decays by
an inverse square root in the last fifth of the steps, where this is linear; it does not give betas,
weight decay and clipping.
"""

from bytelm.data.config import DataConfig, Tfds
from bytelm.models.mamba import MambaConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

config = ExperimentConfig(
    model=MambaConfig(width=1024, layout="m28", remat="dots"),
    data=DataConfig(source=Tfds(dataset="c4/en"), sequence_length=8192, batch_size=256, workers=8),
    optimizer=AdamW(
        learning_rate=6.25e-4, schedule="warmup_stable_decay", warmup=0.1, decay=0.2, final=0.0
    ),
    mesh=MeshConfig(fsdp=8),
    train=TrainConfig(
        steps=219_000, validate_every=2000, checkpoint_every=1000, log_every=20, keep=3
    ),
)
