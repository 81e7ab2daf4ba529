"""A small SpaceByte that trains in minutes on two CPU cores: the quick start."""

from bytelm.data.config import DataConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import OptimizerConfig

config = ExperimentConfig(
    model=SpaceByteConfig(
        local_width=128,
        local_depth=4,
        global_width=192,
        global_depth=4,
        bytes_per_slot=5.5,
    ),
    data=DataConfig(sequence_length=1024, batch_size=4),
    optimizer=OptimizerConfig(
        name="muon", learning_rate=1e-2, schedule="warmup_stable_decay", decay=0.4
    ),
    train=TrainConfig(steps=450, log_every=25, validate_every=225, checkpoint_every=150),
)
