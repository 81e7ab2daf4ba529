"""Where patches end: the segmenters of dynamic token pooling, at equal steps.

Train the pieces of `unigram` first: `bytelm data unigram [data options] --output unigram.model`.
The bands of `flexitokens` are from `bytelm data rates` on Parallel Universal Dependencies, with
English at 0.25; Russian and Hindi text needs `--data.script rus` or `hin`.
"""

from bytelm.data.config import DataConfig, NextByte, PythonLibrary
from bytelm.experiments.ablation import Ablation
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.patching.learned import (
    Band,
    EntropyPatches,
    FlexitokensPatches,
    GumbelPatches,
    UnigramPatches,
)
from bytelm.patching.segmenter import FixedPatches, RulePatches
from bytelm.recipes.small import small_muon
from bytelm.training.experiment import ExperimentConfig, TrainConfig

ablation = Ablation(
    base=ExperimentConfig(
        model=DynamicPoolingConfig(
            width=128, pre_depth=1, backbone_depth=4, post_depth=1, bytes_per_slot=3.0
        ),
        data=DataConfig(
            source=PythonLibrary(script="eng"),
            task=NextByte(unigram="unigram.model"),
            sequence_length=512,
            batch_size=4,
            scripts=("eng", "rus", "hin"),
        ),
        optimizer=small_muon(),
        train=TrainConfig(
            steps=300, log_every=25, validate_every=150, checkpoint_every=150, sample_bytes=0
        ),
    ),
    contenders={
        "whitespace": {"model.segmenter": RulePatches("whitespace")},
        "spacelike": {"model.segmenter": RulePatches("spacelike")},
        "fixed": {"model.segmenter": FixedPatches(4)},
        "gumbel": {"model.segmenter": GumbelPatches(rate=0.2)},
        "gumbel-published-gradient": {
            "model.segmenter": GumbelPatches(rate=0.2),
            "model.boundary_gradient": "published",
        },
        "entropy": {"model.segmenter": EntropyPatches()},
        "unigram": {"model.segmenter": UnigramPatches()},
        "flexitokens": {
            "model.segmenter": FlexitokensPatches(
                rate=0.25,
                bands=(
                    Band("eng", 0.25, 0.0173),
                    Band("rus", 0.131, 0.009),
                    Band("hin", 0.097, 0.0067),
                ),
            )
        },
    },
)
