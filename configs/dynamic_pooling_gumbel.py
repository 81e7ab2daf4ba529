"""A small hourglass whose boundaries are learned under a binomial prior."""

from bytelm.data.config import DataConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.patching.segmenter import GumbelBoundary
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import OptimizerConfig

config = ExperimentConfig(
    model=DynamicPoolingConfig(
        width=128, pre_depth=2, backbone_depth=6, post_depth=2, boundary=GumbelBoundary(rate=0.2)
    ),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=OptimizerConfig(
        name="muon", learning_rate=1e-2, schedule="warmup_stable_decay", decay=0.4
    ),
    train=TrainConfig(steps=750, log_every=50, validate_every=375, checkpoint_every=250),
)
