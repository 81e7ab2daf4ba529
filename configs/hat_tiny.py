"""A small HAT of the first version, of about the quick start's FLOPs per byte."""

from bytelm.data.config import DataConfig
from bytelm.models.hat import HATConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=HATConfig(
        local_width=128,
        encoder_depth=2,
        decoder_depth=2,
        global_width=192,
        global_depth=4,
        bytes_per_slot=5.5,
    ),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=750, log_every=50, validate_every=375, checkpoint_every=250),
)
