"""A small hourglass with a segment every four bytes."""

from bytelm.data.config import DataConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.patching.segmenter import FixedBoundary
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import OptimizerConfig

config = ExperimentConfig(
    model=DynamicPoolingConfig(
        width=128, pre_depth=2, backbone_depth=6, post_depth=2, boundary=FixedBoundary(stride=4)
    ),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=OptimizerConfig(
        name="muon", learning_rate=1e-2, schedule="warmup_stable_decay", decay=0.4
    ),
    train=TrainConfig(steps=750, log_every=50, validate_every=375, checkpoint_every=250),
)
