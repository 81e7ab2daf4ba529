"""Patchers x families: where patches start or end, in four families, at equal steps.

`fixed` has 6 bytes per patch, about the mean of `spacelike` in English. `entropy` learns to
predict spikes of the model's own entropy, and cuts hardly at all before it has learned that, in the
first ten steps or so. `gumbel` learns from the model's loss; it does not fit HAT 2 and AU-Net, in
which no gradient reaches the segmenter.
"""

from dataclasses import replace

from bytelm.data.config import DataConfig
from bytelm.experiments.ablation import Ablation
from bytelm.models.aunet import AUNetConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.hat2 import HAT2Config
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.patching.learned import EntropyPatches, GumbelPatches
from bytelm.patching.segmenter import FixedPatches, RulePatches
from bytelm.patching.word_levels import WordGroups
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

PATCHERS = {
    "spacelike": RulePatches("spacelike", longest_patch=64),
    "whitespace": RulePatches("whitespace", longest_patch=64),
    "words": RulePatches("words", longest_patch=64),
    "word_groups": WordGroups(),
    "fixed": FixedPatches(6),
    "entropy": EntropyPatches(rate=0.2),
    "gumbel": GumbelPatches(rate=0.2),
}
SLOTS = {"head_width": 32, "bytes_per_slot": 3.0}
LEVELS = {"local_width": 96, "global_width": 192, "global_depth": 3, **SLOTS}
FAMILIES = {
    "spacebyte": SpaceByteConfig(local_depth=4, window=128, **LEVELS),
    "dynamic_pooling": DynamicPoolingConfig(
        width=128, pre_depth=1, backbone_depth=4, post_depth=1, **SLOTS
    ),
    "hat2": HAT2Config(encoder_depth=2, decoder_depth=2, window=128, **LEVELS),
    "aunet": AUNetConfig(
        widths=(96, 128, 192), depths=(1, 1, 3), windows=(128, None, None), **SLOTS
    ),
}

ablation = Ablation(
    base=ExperimentConfig(
        model=FAMILIES["spacebyte"],
        data=DataConfig(sequence_length=512, batch_size=4),
        optimizer=small_muon(),
        train=TrainConfig(
            steps=300, log_every=25, validate_every=150, checkpoint_every=150, sample_bytes=0
        ),
    ),
    contenders={
        f"{family}-{patcher}": {"model": replace(model, segmenter=segmenter)}
        for family, model in FAMILIES.items()
        for patcher, segmenter in PATCHERS.items()
        if patcher != "gumbel" or family not in ("hat2", "aunet")
    },
)
