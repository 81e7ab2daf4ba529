"""A small SpaceByte that trains in minutes on two CPU cores: the quick start."""

from bytelm.data.config import DataConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=SpaceByteConfig(
        local_width=128,
        local_depth=4,
        global_width=192,
        global_depth=4,
        bytes_per_slot=5.5,
    ),
    data=DataConfig(sequence_length=1024, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=450, log_every=25, validate_every=225, checkpoint_every=150),
)
