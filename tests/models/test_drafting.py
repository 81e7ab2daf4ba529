"""Losses, statistics and drafts of models with draft heads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.vocabulary import UNSCORED
from bytelm.models.draft import NoDraft
from tests.models.compiled import (
    LENGTH,
    ROWS,
    decoder,
    for_decoding,
    random_rows,
    split_model,
)
from tests.models.draft_logits import KINDS, stacked_logits, vectors_of
from tests.models.families import FAMILIES, small

WITH_HEADS = {
    name: config
    for name, config in FAMILIES.items()
    if not isinstance(getattr(config, "draft", NoDraft()), NoDraft)
}


@functools.cache
def of_whole_rows(config):
    """(params, batch) -> the heads' logits after each symbol: `[n - 1, B, T, V]`."""
    graphdef, _ = split_model(config)

    @jax.jit
    def run(params, batch):
        model = nnx.merge(graphdef, params)
        _, x = vectors_of(model, batch)
        shifts = range(1, config.draft.heads)
        symbols = jnp.stack([jnp.roll(batch.ids, -shift, axis=1) for shift in shifts])
        return stacked_logits(model, x, batch, symbols)

    return run


@pytest.mark.parametrize("config", WITH_HEADS.values(), ids=WITH_HEADS.keys())
def test_drafts_after_rejected_symbols_are_those_of_whole_rows(config):
    """Rows read 5 symbols, then up to 4 of which some are taken back, then draft."""
    _, params = split_model(config)
    batch, rows, ahead = random_rows(23), np.arange(ROWS), config.draft.heads - 1
    expected = np.asarray(of_whole_rows(config)(params, batch))
    params, _ = decoder(config)
    graphdef, _ = for_decoding(config)
    read = rows % 5
    kept = (rows // 5) % (read + 1)

    @jax.jit
    def drafted(params, ids, follow):
        model = nnx.merge(graphdef, params)
        state = model.init_drafting(ROWS, LENGTH)
        _, state = model.extend(ids[:, :5], state, jnp.full(ROWS, 5))
        # What is taken back was wrong.
        wrong = jnp.where(jnp.arange(4)[None] < kept[:, None], ids[:, 5:9], 7)
        _, verified = model.verify(wrong, state, jnp.asarray(read))
        state = model.keep(verified, jnp.asarray(kept))
        found = []

        def choose(logits, index):
            found.append(logits)
            return follow[:, index + 1]

        model.draft_symbols(state, follow[:, 0], ahead, choose)
        return jnp.stack(found)

    at = 4 + kept
    follow = batch.ids[rows[:, None], at[:, None] + 1 + np.arange(ahead + 1)]
    found = drafted(params, batch.ids, follow)
    np.testing.assert_allclose(found, expected[:, rows, at], atol=2e-4)


@pytest.mark.parametrize("draft", KINDS.values(), ids=KINDS.keys())
def test_losses_and_statistics_of_heads_by_hand(draft):
    """Two documents in a row: targets are never in the other one, nor after the row."""
    config = small(
        depth=1, draft=dataclasses.replace(draft, weights=(0.5, 2.0, 0.25)[: draft.ahead])
    )
    graphdef, params = split_model(config)
    batch = random_rows(24)
    batch.document_ids[:, 9:] = 2
    batch.targets[0, 3] = UNSCORED
    logits = np.asarray(of_whole_rows(config)(params, batch), np.float64)

    def run(params):
        output = nnx.merge(graphdef, params)(batch)
        return output.logits, output.auxiliary_losses["draft"], output.statistics

    main, loss, statistics = jax.device_get(jax.jit(run)(params))
    best = main.argmax(-1)
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats, counts, agrees, accepted = [], [], [], []
    for head in range(draft.ahead):
        found = []
        for row, t in np.ndindex(ROWS, LENGTH):
            at = t + head + 1
            inside = at < LENGTH and batch.document_ids[row, at] == batch.document_ids[row, t]
            if inside and batch.targets[row, at] != UNSCORED:
                agree = log[head, row, t].argmax() == best[row, at]
                found.append((-log[head, row, t, batch.targets[row, at]], agree, row, t))
        nats.append(sum(n for n, *_ in found))
        counts.append(len(found))
        agrees.append({(row, t) for _, agree, row, t in found if agree})
    for _, _, row, t in found:
        right = [(row, t) in agree for agree in agrees]
        accepted.append(1 + [*right, False].index(False))
    weights = config.draft.weights
    scored = (batch.targets != UNSCORED).sum()
    np.testing.assert_allclose(loss, np.dot(weights, nats) / scored, rtol=1e-5)
    bits, agreement, expected = statistics
    np.testing.assert_allclose(bits.total, nats, rtol=1e-5)
    np.testing.assert_array_equal(bits.count, counts)
    np.testing.assert_array_equal(agreement.total, [len(agree) for agree in agrees])
    assert (expected.total, expected.count) == (sum(accepted), len(accepted))
