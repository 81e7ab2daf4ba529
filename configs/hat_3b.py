"""HAT, first version, at 3B: 28 blocks over words, 3 + 3 over bytes, both as published."""

from bytelm.data.config import DataConfig, Tfds
from bytelm.models.hat import HATConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.patching.segmenter import RulePatches
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

config = ExperimentConfig(
    model=HATConfig(
        local_width=768,
        encoder_depth=3,
        decoder_depth=3,
        global_width=3584,
        global_depth=28,
        head_width=128,
        qk_norm=False,
        segmenter=RulePatches("whitespace_run", longest_patch=64),
        bytes_per_slot=4.5,
        remat="dots",
    ),
    data=DataConfig(source=Tfds(dataset="c4/en"), sequence_length=16384, batch_size=256, workers=8),
    optimizer=AdamW(learning_rate=0.00034, warmup=0.01, weight_decay=0.1),
    mesh=MeshConfig(fsdp=8),
    train=TrainConfig(
        steps=72_000, validate_every=2000, checkpoint_every=1000, log_every=20, keep=3
    ),
)
