"""MrT5's continued pre-training: a delete gate is added to a ByT5 small, and half is deleted.

Convert the weights first, and name the run: `bytelm convert --from-hf google/byt5-small --output
runs/byt5_small`, then `--train.initial runs/byt5_small`. As published: 5,000 steps of 2^20 bytes at
1e-4, falling linearly; the published text is mC4 in 15 languages, the targets 0.3 to 0.7.
"""

from bytelm.data.config import DataConfig, SpanCorruption, Tfds
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

config = ExperimentConfig(
    model=MrT5Config(shortening=GateShortening(target=0.5), remat="dots"),
    data=DataConfig(
        source=Tfds(dataset="wiki40b/en"),
        task=SpanCorruption(),
        sequence_length=1024,
        batch_size=1024,
    ),
    optimizer=AdamW(
        learning_rate=1e-4,
        schedule="warmup_stable_decay",
        warmup=0.0,
        decay=1.0,
        final=0.0,
        beta2=0.999,
        weight_decay=0.01,
    ),
    train=TrainConfig(steps=5000, log_every=10, validate_every=500, checkpoint_every=500),
)
