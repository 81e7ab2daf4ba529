"""A flat byte Transformer that trains in minutes on two CPU cores."""

from bytelm.config import ExperimentConfig, TrainConfig
from bytelm.data.config import DataConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.optimizer import OptimizerConfig

config = ExperimentConfig(
    model=TransformerConfig(width=192, depth=4, head_width=64, qk_norm=True),
    data=DataConfig(sequence_length=512, batch_size=16),
    optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, schedule="warmup_stable_decay"),
    train=TrainConfig(steps=1200, validate_every=300, checkpoint_every=300),
)
