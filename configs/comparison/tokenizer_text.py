"""How much a tokenizer knows about text that its model never reads: minutes on two cores.

A tokenizer is trained on the whole train split, even if its model reads little of it. The smallest
BPE runs of `cpu.py` read half a megabyte; here they get tokenizers trained on less and less text.
"""

import dataclasses

from bytelm.experiments.comparison import Comparison, Contender, TokenizerConfig
from bytelm.training.presets import comparison_names, find_file, run_file

cpu = run_file(
    find_file("comparison/cpu", "comparison", comparison_names()), "comparison", Comparison
)


def limited(max_bytes: int | None) -> Contender:
    """The Transformer with a tokenizer trained on at most `max_bytes` of text."""
    tokenizer = TokenizerConfig("bpe", 4096, max_bytes)
    return dataclasses.replace(cpu.contenders["bpe"], tokenizer=tokenizer)


comparison = dataclasses.replace(
    cpu,
    title="BPE tokenizers of less text",
    contenders={
        "all": limited(None),
        "2.5MB": limited(2_500_000),
        "0.5MB": limited(500_000),
    },
    baseline="all",
    budgets=cpu.budgets[:1],
    learning_rates=(1.0,),
    robustness=None,
    parallel=(),
)
