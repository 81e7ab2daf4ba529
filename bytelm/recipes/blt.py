"""Training recipe of BLT (arXiv 2412.09871), for the presets in `configs/`.

Rows of 16 kB with 4096 slots for patches, 16.8 MB in a batch, 4.5 TB in all; AdamW with a warm-up
of 2000 steps and a cosine, all weights decayed. As published, a step passes over all rows of the
tables of n-grams. Differences: the authors' rows have 4096 patches and any number of bytes, ours
any number of patches up to 4096; the text is C4, for theirs is not public.
"""

from bytelm.data.config import DataConfig, Tfds
from bytelm.models.blt import BLTConfig
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.nn.mesh import MeshConfig
from bytelm.nn.roles import ROLES
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.optimizer import AdamW

LENGTH, SLOTS, ROWS = 16384, 4096, 1024
STEPS = round(4.5e12 / (LENGTH * ROWS))


def blt(model: BLTConfig, *, final: float = 0.0) -> ExperimentConfig:
    """A run as published; `final` is the learning rate at its end, as a fraction of the peak."""
    return ExperimentConfig(
        model=model,
        data=DataConfig(
            source=Tfds(dataset="c4/en"), sequence_length=LENGTH, batch_size=ROWS, workers=8
        ),
        optimizer=AdamW(
            learning_rate=4e-4,
            warmup=2000 / STEPS,
            final=final,
            decayed=ROLES,
            lazy_tables=False,
        ),
        mesh=MeshConfig(fsdp=8),
        train=TrainConfig(
            steps=STEPS,
            accumulation=16,
            validate_every=2000,
            checkpoint_every=1000,
            log_every=20,
            keep=3,
        ),
    )


def published(
    *,
    local_width: int,
    local_mlp_width: int,
    decoder_depth: int,
    global_width: int,
    global_depth: int,
    global_mlp_width: int,
    vectors: int,
) -> BLTConfig:
    """A published model: entropy patches, and six tables of 500,002 rows.

    The entropy model is a run of the preset `entropy_100m`.
    """
    return BLTConfig(
        local_width=local_width,
        local_mlp_width=local_mlp_width,
        encoder_depth=1,
        decoder_depth=decoder_depth,
        global_width=global_width,
        global_depth=global_depth,
        global_head_width=128,
        global_mlp_width=global_mlp_width,
        vectors=vectors,
        segmenter=EntropyModelPatches(checkpoint="runs/entropy_100m"),
        bytes_per_slot=LENGTH / SLOTS,
        rope_theta=500_000.0,
        qk_norm=False,
        scaled_init=False,
        remat="dots",
    )
