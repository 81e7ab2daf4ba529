"""A flat byte Transformer of 150M parameters, for one accelerator of 40 GiB or more, on C4."""

from bytelm.data.config import DataConfig, Tfds
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import Muon

config = ExperimentConfig(
    model=TransformerConfig(width=1024, depth=12, qk_norm=True, remat="dots"),
    data=DataConfig(source=Tfds(dataset="c4/en"), sequence_length=4096, batch_size=64, workers=4),
    optimizer=Muon(learning_rate=2e-3, schedule="warmup_stable_decay"),
    train=TrainConfig(steps=40_000, validate_every=1000, checkpoint_every=1000, log_every=20),
)
