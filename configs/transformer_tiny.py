"""A flat byte Transformer that trains in minutes on two CPU cores: the quick start."""

from bytelm.data.config import DataConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import OptimizerConfig

config = ExperimentConfig(
    model=TransformerConfig(width=128, depth=4, head_width=64, qk_norm=True),
    data=DataConfig(sequence_length=512, batch_size=4),
    optimizer=OptimizerConfig(
        name="muon", learning_rate=1e-2, schedule="warmup_stable_decay", decay=0.4
    ),
    train=TrainConfig(steps=1000, log_every=50, validate_every=500, checkpoint_every=250),
)
