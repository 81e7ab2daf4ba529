"""A small ByT5 that corrects spelling, for CPU.

The files are JSON lines with the keys `typo` and `fix`; name yours with `--data.files`,
`--data.validation-files` and `--data.test-files`.
"""

from bytelm.data.config import DataConfig, Files, Pairs
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import Muon

config = ExperimentConfig(
    model=ByT5Config(
        width=128, encoder_depth=4, decoder_depth=2, heads=4, head_width=32, mlp_width=256
    ),
    data=DataConfig(
        source=Files(
            files=("spelling.train.jsonl.xz",),
            validation_files=("spelling.valid.jsonl.xz",),
            test_files=("spelling.test.jsonl.xz",),
            text_key="typo",
            target_key="fix",
        ),
        task=Pairs(),
        sequence_length=32,
        batch_size=64,
    ),
    optimizer=Muon(learning_rate=5e-3),
    train=TrainConfig(steps=1500, log_every=50, validate_every=500, checkpoint_every=500),
)
