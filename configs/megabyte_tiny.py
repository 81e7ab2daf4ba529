"""A small MegaByte, of about the quick start's FLOPs per byte."""

from bytelm.data.config import DataConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=MegaByteConfig(
        patch_size=6,
        local_width=128,
        local_depth=4,
        global_width=192,
        global_depth=4,
    ),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=750, log_every=50, validate_every=375, checkpoint_every=250),
)
