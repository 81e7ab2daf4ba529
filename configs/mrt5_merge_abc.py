"""MrT5's diagnostic task, on CPU: every ABC among random letters becomes D."""

from bytelm.data.config import DataConfig, MergeAbc
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=MrT5Config(
        width=128,
        encoder_depth=3,
        decoder_depth=3,
        heads=4,
        head_width=32,
        mlp_width=256,
        gate_depth=1,
        # Slower than published, because the gate has learned nothing yet.
        shortening=GateShortening(target=0.15, bias=3.0, proportional=0.0, integral=1e-5),
    ),
    data=DataConfig(task=MergeAbc(), sequence_length=24, batch_size=64),
    optimizer=small_muon(5e-3, final=0.02),
    train=TrainConfig(
        steps=2600, log_every=50, validate_every=500, validation_rows=256, checkpoint_every=500
    ),
)
