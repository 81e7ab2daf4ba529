"""A small H-Net of two stages that trains in minutes on two CPU cores: the quick start."""

from bytelm.data.config import DataConfig
from bytelm.models.hnet import HNetConfig
from bytelm.patching.router import RouterPatches
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=HNetConfig(
        layout="m2 [m1 [T3] m1] m2",
        widths=(128, 128, 192),
        state_width=32,
        segmenter=RouterPatches(target=3.0),
        deviation=None,
    ),
    data=DataConfig(sequence_length=1024, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=450, log_every=25, validate_every=225, checkpoint_every=150),
)
