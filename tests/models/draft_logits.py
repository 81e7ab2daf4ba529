"""Draft heads of each kind, and the logits of heads over whole rows."""

import functools

from bytelm.models.contract import ModelOutput
from bytelm.models.draft import BlockDraft, ChainDraft, LinearDraft
from bytelm.models.drafting import DraftingModel

KINDS = {
    "linear": LinearDraft(3),
    "block": BlockDraft(3),
    "block, window": BlockDraft(3, window=3),
    "block, shortened": BlockDraft(3, shortened=True),
    "chain": ChainDraft(4),
}


def stacked_logits(model, x, batch, symbols):
    """The logits of heads 2 to n, `[n - 1, B, T, V]`, given the symbols before their targets."""
    draft = model.draft

    def one(head, h, symbols):
        embed = functools.partial(model.embed_symbols, symbols)
        h, x = draft.step(head, h, batch.document_ids, embed)
        return h, ModelOutput(model.unembed(x, draft.kernel(head))).logits

    return draft.stack.map(one, model.read_by_heads(x), symbols)[1]


def vectors_of(model, batch):
    """What gives a model's logits, and what its heads read of."""
    with_draft, found = DraftingModel.with_draft, []

    def watched(self, output, x, batch):
        found.append(x)
        return with_draft(self, output, x, batch)

    type(model).with_draft = watched
    try:
        output = model(batch)
    finally:
        del type(model).with_draft
    return output, found[0]
