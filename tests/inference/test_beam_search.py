"""Beam search against all targets that there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, OUTPUT_SIZE, PAD, START
from bytelm.inference.beam_search import beam_search
from bytelm.inference.transduction import Transducer, pad_inputs
from bytelm.models import Batch
from bytelm.models.t5.byt5 import ByT5, ByT5Config
from tests.inference.hashing_transducer import plain_logits, random_table, transducer

INPUTS = [b"an input", b"", b"another", b"one more", b"xyz"]
LETTERS = b"ab"
MOST = 4
BEAMS = len(LETTERS) ** MOST
ALL = [bytes(t) for n in range(MOST + 1) for t in itertools.product(LETTERS, repeat=n)]
"""Every target: those that end, and at the full length those that do not."""
NEVER = -1e4


def restricted(logits, symbols=(*LETTERS, END)):
    """Logits of nothing but these symbols."""
    return np.where(np.isin(np.arange(logits.shape[-1]), symbols), logits, NEVER)


TABLE = restricted(random_table(scale=1.5)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return transducer(TABLE)


def nats(logits):
    top = logits.max()
    return logits - top - np.log(np.exp(logits - top).sum())


def log_probability(text, target, most=MOST):
    symbols = [*target, END][:most]
    return sum(
        nats(plain_logits(TABLE, text, symbols[:place]).astype(np.float64))[symbol]
        for place, symbol in enumerate(symbols)
    ), len(symbols)


def best(text, penalty):
    def score(target):
        total, length = log_probability(text, target)
        return total / length**penalty

    return max(ALL, key=score)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
def test_enough_beams_find_the_best_target(model, penalty):
    found = beam_search(model, INPUTS, beams=BEAMS, max_bytes=MOST, length_penalty=penalty)
    assert found == [best(text, penalty) for text in INPUTS]


def test_the_penalty_prefers_longer_targets(model):
    lengths = [
        sum(map(len, (best(text, penalty) for text in INPUTS))) for penalty in (-1.0, 0.0, 2.0)
    ]
    assert lengths[0] <= lengths[1] < lengths[2]


def plain_beam_search(text, beams, penalty=1.0):
    """The search of the module, over lists."""
    going, ended = [((), 0.0)], []
    for made in range(MOST):
        candidates = []
        for symbols, score in going:
            of_next = nats(plain_logits(TABLE, text, symbols).astype(np.float64))[:OUTPUT_SIZE]
            candidates += [((*symbols, s), score + of_next[s]) for s in (*LETTERS, END)]
        candidates.sort(key=lambda c: -c[1])
        candidates = candidates[: 2 * beams]
        ended += [(c[0], c[1] / (made + 1) ** penalty) for c in candidates if c[0][-1] == END]
        ended = sorted(ended, key=lambda c: -c[1])[:beams]
        going = [c for c in candidates if c[0][-1] != END][:beams]
    ended += [(symbols, score / MOST**penalty) for symbols, score in going]
    best = max(ended, key=lambda c: c[1])[0]
    return bytes(s for s in best if s != END)


@pytest.mark.parametrize("beams", [1, 2])
def test_few_beams_find_what_they_can(model, beams):
    found = beam_search(model, INPUTS, beams=beams, max_bytes=MOST)
    assert found == [plain_beam_search(text, beams) for text in INPUTS]


def test_an_input_alone_gives_what_it_gives_in_a_batch(model):
    together = beam_search(model, INPUTS, beams=2, max_bytes=MOST)
    assert len(set(map(len, together))) > 1
    alone = [beam_search(model, [text], beams=2, max_bytes=MOST)[0] for text in INPUTS]
    assert alone == together


def test_one_beam_is_greedy_where_no_target_ends():
    endless = transducer(restricted(random_table(1), tuple(b"abc")).astype(np.float32))
    found = beam_search(endless, INPUTS, beams=1, max_bytes=7)
    assert found == endless.greedy(INPUTS, max_bytes=7)
    assert all(len(text) == 7 for text in found)


def test_ids_that_are_no_symbol_are_never_written():
    table = TABLE.copy()
    table[:, OUTPUT_SIZE:] = 3  # likely, but not written
    found = beam_search(transducer(table), INPUTS, beams=3, max_bytes=MOST)
    assert all(set(text) <= set(LETTERS) for text in found)


def test_options_out_of_range(model):
    with pytest.raises(UserError, match="beams is 0; it must be at least 1"):
        beam_search(model, INPUTS, beams=0, max_bytes=MOST)
    with pytest.raises(UserError, match="max-bytes is 0; beam search needs at least 1"):
        beam_search(model, INPUTS, beams=2, max_bytes=0)
    assert beam_search(model, [], beams=2, max_bytes=MOST) == []


def test_a_model_with_caches_finds_the_best_target(monkeypatch):
    """The caches of beams are those of the targets that they hold."""
    most = 3
    targets = [bytes(t) for n in range(most + 1) for t in itertools.product(LETTERS, repeat=n)]
    config = ByT5Config(
        width=16, encoder_depth=1, decoder_depth=2, heads=2, head_width=8, mlp_width=16
    )
    graphdef, params = nnx.split(config.build(nnx.Rngs(2)))
    params = nnx.to_pure_dict(params)
    params["head"]["kernel"] = 4 * params["head"]["kernel"]
    of_model, wanted_symbols = ByT5._logits, jnp.array([*LETTERS, END])

    def of_few(self, x):
        allowed = jnp.isin(jnp.arange(384), wanted_symbols)
        return jnp.where(allowed[None, None, :], of_model(self, x), NEVER)

    monkeypatch.setattr(ByT5, "_logits", of_few)
    ids = np.full((len(targets), most), PAD, np.int32)
    ids[:, 0] = START
    for row, target in zip(ids, targets, strict=True):
        row[1 : 1 + len(target)] = [*target][: most - 1]

    @jax.jit
    def log_softmax(params, inputs):
        batch = Batch(ids, ids, ids, inputs=jnp.repeat(inputs, len(ids), axis=0))
        return jax.nn.log_softmax(nnx.merge(graphdef, params)(batch).logits)

    model, wanted = Transducer(graphdef, params), []
    for text in INPUTS[:3]:
        of_next, scores = np.asarray(log_softmax(params, pad_inputs([text]))), []
        for row, target in zip(of_next, targets, strict=True):
            symbols = [*target, END][:most]
            scores.append(row[np.arange(len(symbols)), symbols].sum() / len(symbols))
        wanted.append(targets[int(np.argmax(scores))])
    found = beam_search(model, INPUTS[:3], beams=len(LETTERS) ** most, max_bytes=most)
    assert found == wanted
    assert len(set(wanted)) > 1
