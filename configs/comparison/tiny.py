"""The tiny presets on English books at equal FLOPs of training, on two CPU cores.

The budget is at least 300 steps of each. All read rows of 1024 bytes, so all see the same
context. The text is JSON lines in the directory `--root`. Two contenders have patches by an
entropy model, which is trained first, and named relative to the directory of the command:

    bytelm train entropy_tiny --run-dir runs/entropy_tiny --data.files ROOT/core/eng_books.train*
    bytelm compare comparison/tiny --root ROOT

`spacebyte_entropy` is `spacebyte` with another segmenter, and nothing else. The threshold is the
one with which `bytelm data entropies` finds the mean bytes per patch of the rule on this text
(5.36, as `bytelm data describe` shows it), and BLT has SpaceByte's slots. It holds for one
entropy model: after training another, find its own. FLOPs count the entropy model's, once for a
step, since it has no backward pass; those of its own training are not counted.
"""

from dataclasses import replace
from typing import Any

from bytelm.data.config import DataConfig, Files
from bytelm.experiments.comparison import Comparison, Contender
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.training.presets import load_preset

CONTEXT = 1024
"""Bytes."""
ENTROPY = EntropyModelPatches(
    checkpoint="runs/entropy_tiny", threshold=2.5927734375, bytes_per_patch=5.36
)


def preset(name: str, **changes: Any) -> Contender:
    """A preset on rows of the common length, with changes to its model."""
    config = load_preset(name)
    data = DataConfig(sequence_length=CONTEXT, batch_size=4)
    return Contender(replace(config, model=replace(config.model, **changes), data=data))


comparison = Comparison(
    title="The tiny presets on English books at equal FLOPs of training, on a CPU",
    contenders={
        name: preset(f"{name}_tiny")
        for name in ("transformer", "mamba", "spacebyte", "aunet", "hnet")
    }
    | {
        "blt": preset("blt_tiny", segmenter=ENTROPY, bytes_per_slot=5.5),
        "spacebyte_entropy": preset("spacebyte_tiny", segmenter=ENTROPY),
    },
    baseline="transformer",
    budgets=(1.09e13,),
    corpora={
        "english_books": DataConfig(
            source=Files(
                files=("core/eng_books.train.jsonl.xz",),
                validation_files=("core/eng_books.valid.jsonl.xz",),
                test_files=("core/eng_books.test.jsonl.xz",),
            )
        )
    },
    learning_rates=(0.5, 1.0, 2.0),
    shard_bytes=CONTEXT,
    max_bytes=400_000,
)
