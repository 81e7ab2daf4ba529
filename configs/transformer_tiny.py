"""A flat byte Transformer that trains in minutes on two CPU cores: the quick start."""

from bytelm.data.config import DataConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=TransformerConfig(width=128, depth=4, head_width=64, qk_norm=True),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=1000, log_every=50, validate_every=500, checkpoint_every=250),
)
