"""A flat Mamba-2 model that trains in minutes on two CPU cores."""

from bytelm.data.config import DataConfig
from bytelm.models.mamba import MambaConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=MambaConfig(width=128, layout="m6", state_width=64),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=1000, log_every=50, validate_every=500, checkpoint_every=250),
)
