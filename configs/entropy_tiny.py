"""A small entropy model for `--model.segmenter entropy_model`; it trains in minutes on a CPU.

    bytelm train entropy_tiny --run-dir runs/entropy_tiny
    bytelm data entropies --checkpoint runs/entropy_tiny

The second command prints the options with which any hierarchical preset has its patches.
"""

from bytelm.data.config import DataConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=TransformerConfig(width=64, depth=2, head_width=32, window=64, qk_norm=True),
    data=DataConfig(sequence_length=512, batch_size=8),
    optimizer=small_muon(),
    train=TrainConfig(steps=600, log_every=50, validate_every=300, checkpoint_every=300),
)
