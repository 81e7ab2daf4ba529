"""A small hourglass whose boundary rate is learned within a band (FLEXITOKENS).

One band for all text; for one of each script see docs/families.md.
"""

from bytelm.data.config import DataConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.patching.learned import FlexitokensPatches
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=DynamicPoolingConfig(
        width=128, pre_depth=2, backbone_depth=6, post_depth=2, segmenter=FlexitokensPatches()
    ),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=750, log_every=50, validate_every=375, checkpoint_every=250),
)
