"""Inputs in, targets out: nothing but the input, the seed and a row's place decides the text."""

import jax
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END, OUTPUT_SIZE, PAD, START
from bytelm.inference import transduction
from bytelm.inference.sampling import Sampling
from bytelm.inference.transduction import (
    Transducer,
    encode_reading,
    pad_inputs,
    read_inputs,
    round_up,
)
from bytelm.models import Batch
from bytelm.models.encoder_decoder import VOCABULARY
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.shortening import GateShortening
from tests.inference.hashing_transducer import plain_logits, random_table, transducer

INPUTS = [b"an input", b"", b"xxx", bytes(range(200, 240)), b"one with x and x"]
MOST = 12


def likely_to_end(table):
    """The table with an END that is the likeliest every now and then."""
    table = table.copy()
    table[::7, END] = 9
    return table


@pytest.fixture(scope="module")
def table():
    return likely_to_end(random_table())


@pytest.fixture(scope="module")
def model(table):
    return transducer(table, chunk=5)


def plain_greedy(table, text, most):
    symbols = []
    while len(symbols) < most:
        symbol = int(plain_logits(table, text, symbols)[:OUTPUT_SIZE].argmax())
        if symbol == END:
            break
        symbols.append(symbol)
    return bytes(symbols)


def test_inputs_are_padded_to_buckets(monkeypatch):
    monkeypatch.setattr(transduction, "MULTIPLE", 8)
    ids = pad_inputs([b"ab", b"", b"\xff" * 7])
    assert ids.shape == (3, 8) and ids.dtype == np.int32
    assert ids[0].tolist() == [97, 98, END] + [PAD] * 5
    assert ids[1].tolist() == [END] + [PAD] * 7
    assert ids[2].tolist() == [255] * 7 + [END]
    assert pad_inputs([b"y" * 8]).shape == (1, 16)
    assert [round_up(n) for n in (0, 1, 8, 9)] == [8, 8, 8, 16]


def test_the_greedy_target_is_the_likeliest_symbol_each_time(model, table):
    wanted = [plain_greedy(table, text, MOST) for text in INPUTS]
    assert len(set(map(len, wanted))) > 2
    assert model.greedy(INPUTS, max_bytes=MOST) == wanted


def test_an_input_alone_gives_what_it_gives_in_a_batch(model):
    together = model.greedy(INPUTS, max_bytes=MOST)
    assert [model.greedy([text], max_bytes=MOST)[0] for text in INPUTS] == together
    sampled = model.generate(INPUTS, max_bytes=MOST, seed=3)
    assert model.generate(INPUTS[:1], max_bytes=MOST, seed=3) == sampled[:1]
    assert sampled != together
    assert model.generate(INPUTS, max_bytes=MOST, seed=4) != sampled


def test_buckets_and_pieces_do_not_matter(model, table, monkeypatch):
    wanted = model.greedy(INPUTS, max_bytes=MOST)
    for size in (1, 16):
        monkeypatch.setattr(transduction, "MULTIPLE", size)
        assert transducer(table, chunk=3).greedy(INPUTS, max_bytes=MOST) == wanted


def test_inputs_take_as_many_slots_as_are_kept(model, monkeypatch):
    monkeypatch.setattr(transduction, "MULTIPLE", 4)
    ids = pad_inputs([b"xxxxxxaxx", b"xxbcdexx"])
    assert ids.shape == (2, 12)
    assert model.encode_inputs(ids).states.shape == (2, 8, 1)
    assert model.encode_inputs(pad_inputs([b"xxx"])).states.shape == (1, 4, 1)
    # Never more than there are inputs.
    assert model.encode_inputs(pad_inputs([b"abc"])[:, :3]).states.shape == (1, 3, 1)


def test_stop_strings_end_a_target(model):
    whole = model.greedy(INPUTS, max_bytes=MOST)
    row = max(range(len(INPUTS)), key=lambda row: len(whole[row]))
    assert len(whole[row]) > 6
    stop = whole[row][4:7]  # held back over the pieces of five symbols
    options = {"max_bytes": MOST, "sampling": Sampling(temperature=0.0)}
    wanted = [text[: text.index(stop)] if stop in text else text for text in whole]
    assert wanted != whole
    assert model.generate(INPUTS, stop=[stop], **options) == wanted
    with pytest.raises(UserError, match="a stop string is empty"):
        model.generate(INPUTS, stop=[b""], **options)


def test_ids_that_are_no_symbol_are_never_written(table):
    other = table.copy()
    other[:, OUTPUT_SIZE:] = 50
    assert VOCABULARY > OUTPUT_SIZE
    found = transducer(other).greedy(INPUTS, max_bytes=MOST)
    assert found == [plain_greedy(table, text, MOST) for text in INPUTS]
    sampled = transducer(other).generate(INPUTS, max_bytes=MOST)
    assert sampled == transducer(table).generate(INPUTS, max_bytes=MOST)


def test_nothing_to_write(model):
    assert model.greedy([], max_bytes=3) == []
    assert model.greedy(INPUTS[:2], max_bytes=0) == [b"", b""]
    with pytest.raises(UserError, match="max-bytes is -1"):
        model.greedy(INPUTS, max_bytes=-1)


# A model with attention, caches and positions.


TEXTS = [b"some input", b"another, longer input", b"\xff\x00"]


@pytest.fixture(scope="module")
def mrt5():
    config = MrT5Config(
        width=16,
        encoder_depth=2,
        decoder_depth=1,
        heads=2,
        head_width=8,
        mlp_width=16,
        gate_depth=1,
        shortening=GateShortening(),
    )
    graphdef, params = nnx.split(config.build(nnx.Rngs(0)))
    params = nnx.to_pure_dict(params)
    params["shortener"]["bias"] = params["shortener"]["bias"] * 0
    params["head"]["kernel"] = 3 * params["head"]["kernel"]
    return graphdef, params


def test_greedy_targets_are_the_argmax_of_the_full_forward(mrt5):
    graphdef, params = mrt5
    most, inputs = 8, pad_inputs(TEXTS)

    @jax.jit
    def likeliest(params, ids):
        output = nnx.merge(graphdef, params)(Batch(ids, ids, ids, inputs=inputs))
        return output.logits[:, :, :OUTPUT_SIZE].argmax(axis=2), output.deleted

    ids = np.full((3, most), PAD, np.int32)
    ids[:, 0] = START
    found = np.zeros((3, most), np.int32)
    for place in range(most):
        symbols, deleted = likeliest(params, ids)
        found[:, place] = symbols[:, place]
        if place + 1 < most:
            ids[:, place + 1] = found[:, place]
    assert 0.2 < np.asarray(deleted)[inputs != PAD].mean() < 0.8
    wanted = []
    for row in found.tolist():
        row = row[: row.index(END)] if END in row else row
        assert all(symbol < BYTES for symbol in row)
        wanted.append(bytes(row))
    assert len(set(wanted)) == 3
    assert Transducer(graphdef, params).greedy(TEXTS, max_bytes=most) == wanted


def test_more_slots_than_are_needed_change_nothing(mrt5):
    model, inputs = Transducer(*mrt5), pad_inputs(TEXTS)
    reading = read_inputs(model.graphdef, model.params, inputs)
    few = int(reading.counts.max())
    assert few < max(map(len, TEXTS))
    some, more = (
        encode_reading(model.graphdef, model.params, reading, few),
        model.encode_inputs(inputs),
    )
    assert (some.states.shape[1], more.states.shape[1]) == (few, transduction.MULTIPLE)
    for row, count in enumerate(np.asarray(reading.counts)):
        np.testing.assert_allclose(some.states[row, :count], more.states[row, :count], atol=1e-5)
        for encoded in (some, more):
            assert (encoded.bias[row, :count] == 0).all()
            assert (encoded.bias[row, count:] < -1e9).all()
