"""A SpaceByte of 5M parameters with draft heads, for measuring decoding by drafts.

Nearly all parameters are in the backbone, so that the local blocks are cheap to run alone, as a
stale backbone lets them. Trains in about ten minutes on two CPU cores.
"""

from bytelm.data.config import DataConfig
from bytelm.models.draft import ChainDraft
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=SpaceByteConfig(
        local_width=128,
        local_depth=2,
        global_width=320,
        global_depth=4,
        bytes_per_slot=5.0,
        draft=ChainDraft(heads=8, mlp_width=128),
    ),
    data=DataConfig(sequence_length=512, batch_size=16),
    optimizer=small_muon(),
    train=TrainConfig(steps=700, log_every=20, validate_every=350, checkpoint_every=175),
)
