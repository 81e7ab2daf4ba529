"""A small hourglass whose boundaries predict the ends of SentencePiece Unigram pieces.

Make the pieces first: `bytelm data unigram dynamic_pooling_fixed --output unigram.model`.
"""

from bytelm.data.config import DataConfig, NextByte
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.patching.learned import UnigramPatches
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=DynamicPoolingConfig(
        width=128, pre_depth=2, backbone_depth=6, post_depth=2, segmenter=UnigramPatches()
    ),
    data=DataConfig(task=NextByte(unigram="unigram.model"), sequence_length=512, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=750, log_every=50, validate_every=375, checkpoint_every=250),
)
