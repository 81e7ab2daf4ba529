"""A small SpaceByte that trains in minutes on two CPU cores: the quick start."""

from bytelm.config import ExperimentConfig, TrainConfig
from bytelm.data.config import DataConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.training.optimizer import OptimizerConfig

config = ExperimentConfig(
    model=SpaceByteConfig(
        local_width=128,
        local_depth=4,
        global_width=192,
        global_depth=4,
        bytes_per_patch=5.0,
    ),
    data=DataConfig(sequence_length=1024, batch_size=2),
    optimizer=OptimizerConfig(
        name="muon", learning_rate=1e-2, schedule="warmup_stable_decay", decay=0.4
    ),
    train=TrainConfig(steps=700, log_every=50, validate_every=350, checkpoint_every=350),
)
