"""A flat byte Transformer of 1.1B parameters on C4, its parameters divided over 8 devices."""

from bytelm.data.config import DataConfig, Tfds
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

config = ExperimentConfig(
    model=TransformerConfig(
        width=2048,
        depth=24,
        head_width=128,
        key_value_heads=4,
        qk_norm=True,
        rope_theta=500_000.0,
        remat="dots",
    ),
    data=DataConfig(source=Tfds(dataset="c4/en"), sequence_length=8192, batch_size=128, workers=8),
    optimizer=AdamW(
        learning_rate=6e-4, schedule="warmup_stable_decay", warmup=0.01, weight_decay=0.1
    ),
    mesh=MeshConfig(fsdp=8),
    train=TrainConfig(
        steps=100_000,
        validate_every=2000,
        checkpoint_every=1000,
        log_every=20,
        keep=3,
        validation_rows=256,
    ),
)
