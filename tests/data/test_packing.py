"""Rows hold every document exactly, at any row length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.data.packing import ConcatenatedRows, Rows, pack
from bytelm.vocabulary import END, PAD, START, UNSCORED

documents_and_length = given(
    documents=st.lists(st.binary(max_size=9), min_size=1, max_size=12),
    length=st.integers(1, 17),
)


def stream_of(documents):
    return [symbol for text in documents for symbol in (START, *text, END)]


def expected_rows(documents, length):
    """The contract, symbol by symbol."""
    stream = stream_of(documents)
    number = np.cumsum(np.array(stream) == START)
    for begin in range(0, len(stream), length):
        piece = stream[begin : begin + length]
        following = stream[begin + 1 : begin + length + 1]
        padding = length - len(piece)
        targets = [UNSCORED if symbol == START else symbol for symbol in following]
        yield {
            "ids": piece + [PAD] * padding,
            "targets": targets + [UNSCORED] * (length - len(targets)),
            "segment_ids": list(number[begin : begin + length] - number[begin] + 1) + [0] * padding,
        }


@documents_and_length
@settings(max_examples=60, deadline=None)
def test_rows_are_the_contract_symbol_by_symbol(documents, length):
    rows = Rows(pack(documents), length)
    expected = list(expected_rows(documents, length))
    assert len(rows) == len(expected)
    for index, row in enumerate(expected):
        for name, values in row.items():
            assert rows[index][name].dtype == np.int32
            np.testing.assert_array_equal(rows[index][name], values, err_msg=name)


@documents_and_length
@settings(max_examples=40, deadline=None)
def test_documents_come_back_out_of_the_rows(documents, length):
    corpus = pack(documents)
    rows = Rows(corpus, length)
    batch = rows.batch(range(len(rows)))
    ids = batch["ids"][batch["segment_ids"] > 0].tolist()
    unpacked, text = [], []
    for symbol in ids:
        if symbol == END:
            unpacked.append(bytes(text))
        elif symbol == START:
            text = []
        else:
            text.append(symbol)
    assert unpacked == documents == list(corpus.documents())
    targets = batch["targets"][batch["targets"] != UNSCORED].tolist()
    assert targets == [symbol for symbol in stream_of(documents) if symbol != START]
    assert corpus.num_bytes == sum(map(len, documents))
    assert corpus.num_symbols == corpus.num_bytes + 2 * corpus.num_documents == len(ids)


def test_a_row_behind_the_last_is_padding():
    rows = Rows(pack([b"abc"]), 5)
    batch = rows.batch([0, 1, 7])
    assert (batch["ids"][1:] == PAD).all()
    assert (batch["targets"][1:] == UNSCORED).all()
    assert (batch["segment_ids"][1:] == 0).all()
    with pytest.raises(IndexError, match="row 1 of 1"):
        rows[1]


def test_rows_of_several_sources_are_numbered_on():
    sources = [Rows(pack([b"one", b""]), 4), Rows(pack([b"two" * 5]), 4)]
    joined = ConcatenatedRows(sources)
    order = [4, 0, 1, 3, 2, len(joined)]
    batch = joined.batch(order)
    alone = [sources[0].batch([0, 1]), sources[1].batch(range(6))]
    for name, rows in batch.items():
        expected = np.concatenate([part[name] for part in alone])[order]
        np.testing.assert_array_equal(rows, expected, err_msg=name)
