"""Rows hold every document exactly, at any row length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, PAD, START, UNSCORED
from bytelm.data.corpus.packing import ConcatenatedRows, Corpus, Rows, pack, script_ids

documents_and_length = given(
    documents=st.lists(st.binary(max_size=9), min_size=1, max_size=12), length=st.integers(1, 17)
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
            "document_ids": list(number[begin : begin + length] - number[begin] + 1)
            + [0] * padding,
        }


@documents_and_length
@settings(max_examples=60, deadline=None)
def test_rows_are_the_contract_symbol_by_symbol(documents, length):
    rows = Rows(pack(documents), length)
    expected = list(expected_rows(documents, length))
    assert len(rows) == len(expected)
    batch = rows.batch(range(len(rows)))
    for index, row in enumerate(expected):
        for name, values in row.items():
            assert batch[name].dtype == np.int32
            np.testing.assert_array_equal(batch[name][index], values, err_msg=name)


@documents_and_length
@settings(max_examples=40, deadline=None)
def test_documents_come_back_out_of_the_rows(documents, length):
    corpus = pack(documents)
    rows = Rows(corpus, length)
    batch = rows.batch(range(len(rows)))
    ids = batch["ids"][batch["document_ids"] > 0].tolist()
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
    assert (batch["document_ids"][1:] == 0).all()


def marked(documents, scripts):
    """A corpus with scripts, and boundaries after every "." and START."""
    corpus, stream = pack(documents), np.array(stream_of(documents))
    boundaries = (stream == START) | (stream == ord("."))
    return Corpus(corpus.symbols, corpus.starts, np.array(scripts, np.int32), boundaries)


@given(
    documents=st.lists(st.text("ab.", max_size=9).map(str.encode), min_size=1, max_size=9),
    length=st.integers(1, 17),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_scripts_and_boundaries_are_those_of_the_stream_however_it_is_cut(documents, length, seed):
    scripts = np.random.default_rng(seed).integers(0, 5, len(documents))
    rows = Rows(marked(documents, scripts), length)
    batch = rows.batch(range(len(rows) + 1))
    stream = np.array(stream_of(documents))
    padding = (len(rows) + 1) * length - len(stream)
    number = np.cumsum(stream == START) - 1
    expected = np.pad(scripts[number], (0, padding), constant_values=-1)
    np.testing.assert_array_equal(batch["scripts"].reshape(-1), expected)
    assert batch["scripts"].dtype == np.int32
    marks = (batch["ids"] == START) | (batch["ids"] == ord("."))
    np.testing.assert_array_equal(batch["boundaries"], marks)
    assert batch["boundaries"].dtype == np.bool_
    assert marks.sum() == rows.corpus.boundaries.sum()


def test_scripts_and_boundaries_of_several_sources():
    joined = ConcatenatedRows(
        [Rows(marked([b"a.b", b"."], [3, 1]), 4), Rows(marked([b"..ab"], [2]), 4)]
    )
    batch = joined.batch([3, len(joined), 0, 4, 1, 2])
    # The rows are ^a.b $^.$ and ^..a b$ (^ is START, $ is END).
    np.testing.assert_array_equal(
        batch["scripts"],
        np.array([[2, 2, -1, -1], [-1] * 4, [3] * 4, [-1] * 4, [3, 1, 1, 1], [2] * 4]),
    )
    marks = ["____", "____", "X_X_", "____", "_XX_", "XXX_"]
    np.testing.assert_array_equal(batch["boundaries"], [[m == "X" for m in row] for row in marks])


def test_rows_of_several_sources_are_numbered_on():
    sources = [Rows(pack([b"one", b""]), 4), Rows(pack([b"two" * 5]), 4)]
    joined = ConcatenatedRows(sources)
    order = [4, 0, 1, 3, 2, len(joined)]
    batch = joined.batch(order)
    alone = [sources[0].batch([0, 1]), sources[1].batch(range(6))]
    for name, rows in batch.items():
        expected = np.concatenate([part[name] for part in alone])[order]
        np.testing.assert_array_equal(rows, expected, err_msg=name)


def test_numbers_follow_the_order_of_the_known_names():
    ids = script_ids(["rus", "eng"], ("eng", "hin", "rus"), "x")
    np.testing.assert_array_equal(ids, np.array([2, 0], np.int32))
    assert ids.dtype == np.int32


@pytest.mark.parametrize("found", [None, []])
def test_a_source_without_scripts(found):
    with pytest.raises(UserError, match=r"documents of x have no script.*data.script_key"):
        script_ids(found, ("eng",), "x")


def test_every_unknown_script_is_named():
    with pytest.raises(UserError, match=r"x has documents of the script tha, hin.*\(eng, rus\)"):
        script_ids(["tha", "eng", "hin"], ("eng", "rus"), "x")
