"""A HAT of the second version with 5M parameters and draft heads, for measuring decoding by drafts.

As `spacebyte_5m_draft`, nearly all parameters are in the backbone. Trains in about ten minutes on
two CPU cores.
"""

from bytelm.data.config import DataConfig
from bytelm.models.draft import ChainDraft
from bytelm.models.hat2 import HAT2Config
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=HAT2Config(
        local_width=128,
        encoder_depth=1,
        decoder_depth=1,
        window=128,
        global_width=320,
        global_depth=4,
        bytes_per_slot=4.0,
        draft=ChainDraft(heads=8, mlp_width=128),
    ),
    data=DataConfig(sequence_length=512, batch_size=16),
    optimizer=small_muon(),
    train=TrainConfig(steps=500, log_every=20, validate_every=250, checkpoint_every=250),
)
