"""ByT5 xl (3.7B parameters): span corruption as published, with AdamW for Adafactor."""

from bytelm.data.config import DataConfig, SpanCorruption, Tfds
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

config = ExperimentConfig(
    model=ByT5Config(
        width=2560,
        encoder_depth=36,
        decoder_depth=12,
        heads=32,
        mlp_width=6720,
        remat="dots",
    ),
    data=DataConfig(
        source=Tfds(dataset="wiki40b/en"),
        task=SpanCorruption(),
        sequence_length=1024,
        batch_size=1024,
    ),
    optimizer=AdamW(learning_rate=1e-3, warmup=0.01, weight_decay=0.0),
    mesh=MeshConfig(fsdp=32),
    train=TrainConfig(steps=1_000_000, log_every=100, validate_every=5000, checkpoint_every=5000),
)
