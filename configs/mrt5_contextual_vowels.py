"""MrT5's diagnostic task, on CPU: vowels behind lower-case consonants are taken out."""

from bytelm.config import ExperimentConfig, TrainConfig
from bytelm.data.config import DataConfig
from bytelm.models.mrt5 import MrT5Config
from bytelm.models.shortening import GateShortening
from bytelm.training.optimizer import OptimizerConfig

config = ExperimentConfig(
    model=MrT5Config(
        width=128,
        encoder_depth=3,
        decoder_depth=3,
        heads=4,
        head_width=32,
        mlp_width=256,
        gate_depth=1,
        softmax1=True,
        shortening=GateShortening(target=0.25, integral=1e-3, score_weight=0.5),
    ),
    data=DataConfig(task="contextual_vowel_removal", sequence_length=64, batch_size=64),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    train=TrainConfig(
        steps=2000, log_every=50, validate_every=500, validation_rows=256, checkpoint_every=500
    ),
)
