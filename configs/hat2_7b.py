"""HAT, second version: a backbone of 7.0B parameters, of the shape of Llama 3.1 8B."""

from bytelm.data.config import DataConfig, Tfds
from bytelm.models.hat2 import HAT2Config
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

config = ExperimentConfig(
    model=HAT2Config(
        local_width=1024,
        encoder_depth=8,
        decoder_depth=5,
        window=768,
        global_width=4096,
        global_depth=32,
        global_key_value_heads=8,
        global_mlp_width=14336,
        head_width=128,
        qk_norm=False,
        bytes_per_slot=4.5,
        remat="dots",
    ),
    data=DataConfig(source=Tfds(dataset="c4/en"), sequence_length=16384, batch_size=256, workers=8),
    optimizer=AdamW(learning_rate=3e-4, warmup=0.01, weight_decay=0.1),
    mesh=MeshConfig(fsdp=8),
    train=TrainConfig(
        steps=72_000, validate_every=2000, checkpoint_every=1000, log_every=20, keep=3
    ),
)
