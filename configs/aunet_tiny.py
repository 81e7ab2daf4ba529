"""A small AU-Net of bytes, words and pairs of words that trains in minutes on two CPU cores."""

from bytelm.data.config import DataConfig
from bytelm.models.aunet import AUNetConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=AUNetConfig(
        widths=(128, 192, 256),
        depths=(1, 1, 4),
        windows=(128, None, None),
        head_width=64,
        bytes_per_slot=4.5,
        patches_per_slot=(1.5,),
    ),
    data=DataConfig(sequence_length=1024, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=450, log_every=25, validate_every=225, checkpoint_every=150),
)
