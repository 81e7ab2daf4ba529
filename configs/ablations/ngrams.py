"""Hashed n-grams of bytes (BLT, arXiv 2412.09871) in the flat model, at equal steps.

Tables cost no FLOPs and a step touches only the rows of its batch, so what they add is memory: the
sizes and numbers of rows are the question. `wider` spends parameters of blocks instead.
"""

from bytelm.experiments.ablation import Ablation
from bytelm.training.presets import load_preset

base = load_preset("transformer_tiny")

ALL = (3, 4, 5, 6, 7, 8)

ablation = Ablation(
    base=base,
    contenders={
        "none": {"model.ngrams": ()},
        "3-4": {"model.ngrams": (3, 4), "model.ngram_rows": 20_000},
        "3-8": {"model.ngrams": ALL, "model.ngram_rows": 20_000},
        "3-8-few-rows": {"model.ngrams": ALL, "model.ngram_rows": 2_000},
        "3-8-two-functions": {
            "model.ngrams": ALL,
            "model.ngram_rows": 10_000,
            "model.ngram_functions": 2,
        },
        "3-8-all-rows-decay": {
            "model.ngrams": ALL,
            "model.ngram_rows": 20_000,
            "optimizer.lazy_tables": False,
        },
        "wider": {"model.width": 192},
    },
)
