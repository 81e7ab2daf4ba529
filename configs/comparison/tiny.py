"""The tiny presets on English books at equal FLOPs of training, on two CPU cores.

The budget is at least 300 steps of each. All read rows of 1024 bytes, so all see the same
context. The text is JSON lines in the directory `--root`.
"""

from dataclasses import replace

from bytelm.data.config import DataConfig, Files
from bytelm.experiments.comparison import Comparison, Contender
from bytelm.training.presets import load_preset

CONTEXT = 1024
"""Bytes."""


def preset(name: str) -> Contender:
    """A preset on rows of the common length."""
    config = load_preset(name)
    data = DataConfig(sequence_length=CONTEXT, batch_size=4)
    return Contender(replace(config, data=data))


comparison = Comparison(
    title="The tiny presets on English books at equal FLOPs of training, on a CPU",
    contenders={
        name: preset(f"{name}_tiny")
        for name in ("transformer", "mamba", "spacebyte", "aunet", "hnet")
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
