"""Dynamic token pooling as published (arXiv 2211.09761), with Gumbel boundaries, on wiki40b.

Without its dropout of 0.1, and with boundaries rounded in evaluation, as the paper has them.
"""

from bytelm.data.config import DataConfig, Tfds
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.patching.learned import GumbelPatches
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

config = ExperimentConfig(
    model=DynamicPoolingConfig(
        width=512,
        pre_depth=2,
        backbone_depth=8,
        post_depth=2,
        head_width=64,
        mlp="gelu",
        mlp_width=2048,
        segmenter=GumbelPatches(rate=0.2, temperature=0.5),
        boundary_gradient="published",
        published_blocks=True,
        remat="dots",
    ),
    data=DataConfig(
        source=Tfds(dataset="wiki40b/en"), sequence_length=2048, batch_size=8, workers=4
    ),
    optimizer=AdamW(
        learning_rate=2.5e-4, warmup=0.02, final=0.0, beta2=0.999, weight_decay=0.0, clip_norm=0.25
    ),
    train=TrainConfig(
        steps=200_000, validate_every=5000, checkpoint_every=5000, log_every=50, keep=2
    ),
)
