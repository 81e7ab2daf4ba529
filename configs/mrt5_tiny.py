"""A small MrT5 with span corruption, for CPU cores; it learns to delete 40 %."""

from bytelm.data.config import DataConfig, SpanCorruption
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=MrT5Config(
        width=128,
        encoder_depth=6,
        decoder_depth=2,
        heads=4,
        head_width=32,
        mlp_width=256,
        gate_depth=2,
        shortening=GateShortening(target=0.4, integral=1e-3),
    ),
    data=DataConfig(task=SpanCorruption(), sequence_length=512, batch_size=8),
    optimizer=small_muon(5e-3),
    train=TrainConfig(steps=500, log_every=25, validate_every=250, checkpoint_every=250),
)
