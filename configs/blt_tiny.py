"""A small BLT that trains in minutes on two CPU cores, with patches by a rule.

With a run of `entropy_tiny`, patches by entropies: `bytelm data entropies` prints the options.
"""

from bytelm.data.config import DataConfig
from bytelm.models.blt import BLTConfig
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

config = ExperimentConfig(
    model=BLTConfig(
        local_width=96,
        head_width=48,
        encoder_depth=1,
        decoder_depth=3,
        window=128,
        global_width=192,
        global_depth=4,
        ngram_rows=20_000,
        bytes_per_slot=4.0,
    ),
    data=DataConfig(sequence_length=1024, batch_size=4),
    optimizer=small_muon(),
    train=TrainConfig(steps=450, log_every=25, validate_every=225, checkpoint_every=150),
)
