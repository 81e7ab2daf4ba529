"""Kinds of draft heads on the flat model, at equal steps: bits of head 1, and accepted drafts.

`shallow` has the parameters of `none`: each head's block is taken off the depth. `chain-half`
weighs each head half as much as the one before it.
"""

from bytelm.experiments.ablation import Ablation
from bytelm.models.draft import BlockDraft, ChainDraft, LinearDraft, NoDraft
from bytelm.training.presets import load_preset

HEADS = 4
SHORTENED = BlockDraft(HEADS, shortened=True)

ablation = Ablation(
    base=load_preset("transformer_tiny"),
    contenders={
        "none": {"model.draft": NoDraft()},
        "linear": {"model.draft": LinearDraft(HEADS)},
        "block": {"model.draft": BlockDraft(HEADS)},
        "shortened": {"model.draft": SHORTENED},
        "shallow": {"model.draft": SHORTENED, "model.depth": 1},
        "chain": {"model.draft": ChainDraft(HEADS)},
        "chain-half": {"model.draft": ChainDraft(HEADS, weights=(0.5, 0.25, 0.125))},
    },
)
