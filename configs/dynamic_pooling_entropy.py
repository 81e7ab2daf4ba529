"""A small hourglass whose boundaries predict spikes of its own entropy."""

from bytelm.data.config import DataConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.patching.learned import EntropyPatches
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=DynamicPoolingConfig(
        width=128, pre_depth=2, backbone_depth=6, post_depth=2, segmenter=EntropyPatches()
    ),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=750, log_every=50, validate_every=375, checkpoint_every=250),
)
