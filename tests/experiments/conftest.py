"""A tiny comparison and its text."""

from pathlib import Path

import numpy as np
import pytest

from bytelm.evaluation.robustness import Robustness
from bytelm.experiments.comparison import Comparison
from bytelm.training.cost import row_flops
from tests.experiments.toys import CONTENDERS, TWO, corpus


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    words = {"english": ["to", "be", "or", "not", "\n"], "german": ["sein", "oder", "nicht", "\n"]}
    for language, choice in words.items():
        for seed, name in enumerate(("train", "valid", "test", "other.test")):
            text = " ".join(np.random.default_rng(seed).choice(choice, 700))
            (folder / f"{language}.{name}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def comparison(root) -> Comparison:
    smallest = 3 * 4 * row_flops(CONTENDERS["spacebyte"].config)
    return Comparison(
        title="Toys",
        contenders=TWO,
        baseline="bpe",
        budgets=(2 * smallest, 3 * smallest),
        corpora={"english": corpus("english", root)},
        learning_rates=(0.5, 1.0),
        shard_bytes=32,
        robustness=Robustness(kinds=("delete",), rates=(0.1,)),
        robustness_bytes=500,
        adaptation={"german": corpus("german", root)},
        timed_steps=1,
    )
