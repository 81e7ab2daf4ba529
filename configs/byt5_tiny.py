"""A small ByT5 with span corruption, for CPU cores."""

from bytelm.data.config import DataConfig, SpanCorruption
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=ByT5Config(
        width=128,
        encoder_depth=6,
        decoder_depth=2,
        heads=4,
        head_width=32,
        mlp_width=256,
    ),
    data=DataConfig(task=SpanCorruption(), sequence_length=512, batch_size=8),
    optimizer=small_muon(5e-3),
    train=TrainConfig(steps=500, log_every=25, validate_every=250, checkpoint_every=250),
)
