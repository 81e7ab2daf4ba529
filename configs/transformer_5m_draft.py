"""A flat byte Transformer of 5M parameters with draft heads, for measuring decoding by drafts.

Trains in about half an hour on two CPU cores. The chain of seven heads has 2.3M parameters more.
"""

from bytelm.data.config import DataConfig
from bytelm.models.draft import ChainDraft
from bytelm.models.transformer import TransformerConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=TransformerConfig(
        width=256,
        depth=6,
        head_width=64,
        qk_norm=True,
        draft=ChainDraft(heads=8, mlp_width=256),
    ),
    data=DataConfig(sequence_length=512, batch_size=16),
    optimizer=small_muon(),
    train=TrainConfig(steps=700, log_every=20, validate_every=350, checkpoint_every=175),
)
