"""Span corruption agrees with T5's, for all bytes and lengths."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.core.vocabulary import END, PAD, START, UNSCORED
from bytelm.data.corpus.packing import pack
from bytelm.data.tasks.span_corruption import (
    SpanCorruption,
    SpanCorruptionRows,
    corrupt,
)
from bytelm.data.tasks.task import Example, ExampleRows, random_of
from tests.models.golden import cases, load

GOLDEN = cases("mrt5", lambda file: "in.length_grid" in file)


def task_of(density, mean_span):
    return SpanCorruption(noise_density=density, mean_span=mean_span)


def lengths_of(task, input_length):
    """Symbols of text and of its target."""
    return task.text_length(input_length), task.own_row_length(input_length)


def symbols_of(t5_ids):
    """T5's ids as our symbols: bytes minus 3, 1 as END, and 0 (the decoder's start) as START."""
    return np.select([t5_ids == 0, t5_ids == 1], [START, END], t5_ids - 3)


def names_of(case, letter):
    """`b0`, `b1` and so on, for all that the file has."""
    pattern = re.compile(rf"{letter}\d+\.noise_mask")
    return [key.split(".")[0] for key in [*case.input, *case.out] if pattern.fullmatch(key)]


@pytest.mark.parametrize("path", GOLDEN)
def test_golden_batches(path):
    case = load(path)
    names = names_of(case, "b")
    assert names
    for name in names:
        raw = symbols_of(case.input[f"{name}.token_ids"])
        for row, mask in enumerate(case.out[f"{name}.noise_mask"]):
            inputs, targets = corrupt(raw[row], mask)
            np.testing.assert_array_equal(inputs, symbols_of(case.out[f"{name}.inputs"][row]))
            np.testing.assert_array_equal(targets, symbols_of(case.out[f"{name}.targets"][row]))


class GivenRows(ExampleRows):
    """Rows of given chunks and masks."""

    def __init__(self, raw, masks, input_length, target_length):
        super().__init__(input_length, target_length)
        self.raw, self.masks = raw, masks

    def __len__(self):
        return len(self.raw)

    def example(self, index, place):
        return Example(*corrupt(self.raw[index], self.masks[index]))


@pytest.mark.parametrize("path", GOLDEN)
def test_golden_decoder_inputs(path):
    case = load(path)
    for name in names_of(case, "b"):
        inputs, ids = case.out[f"{name}.inputs"], case.out[f"{name}.decoder_input_ids"]
        raw, masks = symbols_of(case.input[f"{name}.token_ids"]), case.out[f"{name}.noise_mask"]
        rows = GivenRows(raw, masks, inputs.shape[1] + 2, ids.shape[1] + 3)
        batch = rows.batch(range(len(raw)))
        np.testing.assert_array_equal(batch["ids"][:, :-3], symbols_of(ids))
        np.testing.assert_array_equal(batch["inputs"][:, :-2], symbols_of(inputs))
        assert (batch["ids"][:, -3:] == PAD).all()
        assert (batch["inputs"][:, -2:] == PAD).all()
        assert (batch["targets"][:, -3:] == UNSCORED).all()


@pytest.mark.parametrize("path", GOLDEN)
def test_golden_custom_masks(path):
    case = load(path)
    names = names_of(case, "c")
    assert names
    for name in names:
        raw = symbols_of(case.input[f"{name}.token_ids"])
        inputs, targets = corrupt(raw, case.input[f"{name}.noise_mask"])
        np.testing.assert_array_equal(inputs, symbols_of(case.out[f"{name}.inputs"]))
        np.testing.assert_array_equal(targets, symbols_of(case.out[f"{name}.targets"]))


@pytest.mark.parametrize("path", GOLDEN)
def test_golden_masks_have_the_same_shape(path):
    case = load(path)
    for name in names_of(case, "b"):
        masks = case.out[f"{name}.noise_mask"]
        task = task_of(
            float(case.input[f"{name}.noise_density"]), float(case.input[f"{name}.mean_span"])
        )
        for row, wanted in enumerate(masks):
            mask = task.noise_mask(len(wanted), random_of(row))
            assert (mask.sum(), mask[0], mask[-1]) == (wanted.sum(), False, True)
            assert np.diff(mask).sum() == np.diff(wanted).sum()


@pytest.mark.parametrize("path", GOLDEN)
def test_golden_lengths(path):
    case = load(path)
    for (length, density, mean), wanted in zip(
        case.input["length_grid"].tolist(), case.out["length_grid"].tolist(), strict=True
    ):
        assert lengths_of(task_of(density, mean), int(length)) == tuple(wanted)


def test_published_lengths():
    task = SpanCorruption()
    assert lengths_of(task, 1024) == (1193, 189)
    assert lengths_of(task, 512) == (597, 95)
    assert task.span_counts(1193) == (179, 9)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 400), st.floats(0.02, 0.9), st.floats(1, 30))
def test_no_text_of_a_row_needs_more_room_than_there_is(input_length, density, mean):
    task = task_of(density, mean)
    raw, target_length = lengths_of(task, input_length)
    assert task.corrupted_lengths(raw)[0] <= input_length
    if density != 0.5:
        assert task.corrupted_lengths(raw + 1)[0] > input_length
    for length in {1, 2, raw // 2 + 1, raw - 1, raw}:
        mask = task.noise_mask(length, random_of(length))
        assert len(mask) == length
        assert not mask[0]
        assert mask[-1] == (length > 1)
        inputs, targets = corrupt(np.zeros(length, np.int32), mask)
        assert len(inputs) <= input_length
        assert len(targets) <= target_length


def restored(inputs, targets, mask):
    """Puts the noise back; only the mask says which symbols are sentinels."""
    kept, noise = iter(inputs.tolist()), iter(targets.tolist())
    symbols = []
    for position, is_noise in enumerate(mask):
        begins = position == 0 or mask[position - 1] != is_noise
        if begins:
            next(kept if is_noise else noise)
        symbols.append(next(noise if is_noise else kept))
    assert [*kept] == [*noise] == [END]
    return symbols


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 255), st.just(255), st.just(END)), min_size=1, max_size=80),
    st.randoms(),
)
def test_inputs_and_targets_hold_all_of_the_text(symbols, random):
    mask = np.array([random.random() < 0.4 for _ in symbols])
    inputs, targets = corrupt(np.array(symbols, np.int32), mask)
    assert restored(inputs, targets, mask) == symbols
    assert inputs.dtype == targets.dtype == np.int32


def test_too_many_spans():
    mask = np.tile([False, True], 257)
    inputs, _ = corrupt(np.ones(512, np.int32), mask[:512])
    assert inputs[-2] == 0
    with pytest.raises(ValueError, match="257 spans in a row, and there are 256 sentinels"):
        corrupt(np.zeros(514, np.int32), mask)


DOCUMENTS = [
    b"",
    b"\xff\xfe\xff",
    b"a",
    bytes(range(256)) * 2,
    b"",
    b"\xf5",
    b"some text " * 30,
    b"",
]


@pytest.mark.parametrize("documents", [DOCUMENTS, [b""], [b"abc"], DOCUMENTS[::-1]])
@pytest.mark.parametrize("input_length", [3, 4, 16, 300, 2000])
def test_chunks_hold_every_byte_and_end(documents, input_length):
    rows = SpanCorruptionRows(pack(documents), task_of(0.3, 3.0), input_length, seed=0)
    chunks = [rows.chunk(index)[0] for index in range(len(rows))]
    assert all(len(chunk) == rows.chunk_length for chunk in chunks[:-1])
    assert 1 <= len(chunks[-1]) <= rows.chunk_length
    wanted = [symbol for document in documents for symbol in [*document, END]]
    assert np.concatenate(chunks).tolist() == wanted
    owners = [number for number, document in enumerate(documents) for _ in [*document, END]]
    firsts = [rows.chunk(index)[1] for index in range(len(rows))]
    assert firsts == owners[:: rows.chunk_length]


def test_rows_are_new_at_each_place_and_the_same_in_evaluation():
    task = SpanCorruption(target_length=60, noise_density=0.3, mean_span=3.0)
    rows = SpanCorruptionRows(pack(DOCUMENTS), task, 100, seed=0)
    other = SpanCorruptionRows(pack(DOCUMENTS), task, 100, seed=1)
    first, second = rows.batch([2, 2], [7, 9])["targets"]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(rows.batch([2], [9])["targets"][0], second)
    assert not np.array_equal(other.batch([2], [9])["targets"][0], second)
    held_out = rows.batch([2, 1])["targets"][0]
    np.testing.assert_array_equal(other.batch([2])["targets"][0], held_out)
    assert not np.array_equal(held_out, first)
