"""Shards: every symbol once in each epoch, and the same text in the same order for all symbols."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.core.vocabulary import END, PAD, START, UNSCORED, Vocabulary
from bytelm.data.corpus.packing import Corpus, pack
from bytelm.data.corpus.shards import ShardRows

PAIRS = Vocabulary(256 + 26 * 26)


def paired(documents):
    """The documents with each two lower-case letters as one token."""
    streams, starts = [], [0]
    for text in documents:
        ids, at = [0], 0
        while at < len(text):
            pair = text[at : at + 2]
            if len(pair) == 2 and pair.isalpha() and pair.islower():
                ids.append(256 + 26 * (pair[0] - 97) + pair[1] - 97)
                at += 2
            else:
                ids.append(text[at])
                at += 1
        streams.append([*ids, 0])
        starts.append(starts[-1] + len(streams[-1]))
    counts = np.zeros(PAIRS.inputs, np.int32)
    counts[:256] = 1
    counts[256 : PAIRS.size] = 2
    symbols = np.array([symbol for stream in streams for symbol in stream], np.uint16)
    return Corpus(symbols, np.array(starts), vocabulary=PAIRS, byte_counts=counts)


def text_of(symbols, vocabulary):
    """Bytes, `^` for START and `$` for END."""
    text = b""
    for symbol in symbols:
        if symbol >= vocabulary.size:
            text += {vocabulary.start: b"^", vocabulary.end: b"$", vocabulary.pad: b""}[symbol]
        elif symbol >= 256:
            text += bytes([97 + (symbol - 256) // 26, 97 + (symbol - 256) % 26])
        else:
            text += bytes([symbol])
    return text


documents = st.lists(st.text("abcXY ", max_size=30).map(str.encode), min_size=1, max_size=6)


@given(documents, st.integers(1, 9), st.integers(1, 13))
@settings(max_examples=60, deadline=None)
def test_each_symbol_is_a_target_once_in_each_epoch(texts, shard_bytes, length):
    for corpus in (pack(texts), paired(texts)):
        rows = ShardRows(corpus, length, shard_bytes, seed=3)
        for epoch in range(2):
            places = range(epoch * len(rows), (epoch + 1) * len(rows))
            batch = rows.batch([0] * len(rows), places)
            scored = batch["targets"][batch["targets"] != UNSCORED]
            ids = batch["ids"][batch["document_ids"] > 0]
            want = sorted("".join(text.decode() + "$" for text in texts).encode())
            assert sorted(text_of(scored, corpus.vocabulary)) == want
            assert len(ids) == corpus.num_symbols
            if corpus.byte_counts is not None:
                assert batch["byte_counts"].sum() == sum(map(len, texts))


@given(documents, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_target_is_the_symbol_behind_it_in_the_document(texts, shard_bytes):
    # Case and position identify the letters of a document, so pairs must be neighbours.
    corpus = pack(texts)
    rows = ShardRows(corpus, 4, shard_bytes, seed=0)
    batch = rows.batch(range(len(rows)))
    stream = [symbol for text in texts for symbol in (START, *text, END)]
    neighbours = set(itertools.pairwise(stream))
    for symbol, target in zip(batch["ids"].flat, batch["targets"].flat, strict=True):
        if symbol in (END, PAD):
            assert target == UNSCORED
        else:
            assert (symbol, target) in neighbours


def test_bytes_and_tokens_are_in_the_same_order():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc XY"), 300)).encode() for _ in range(4)]
    of_bytes = ShardRows(pack(texts), 64, 32, seed=5)
    of_tokens = ShardRows(paired(texts), 32, 32, seed=5)

    def read(rows):
        ids = rows.batch(range(len(rows)))["ids"].ravel()
        return text_of(ids[ids != rows.corpus.vocabulary.pad], rows.corpus.vocabulary)

    first, second = read(of_bytes), read(of_tokens)
    # A token that spans the edge of a shard belongs to the earlier one: only one byte moves.
    assert len(first) == len(second)
    assert sorted(first) == sorted(second)
    words = [first[at : at + 20] for at in range(0, len(first) - 32, 32)]
    found = [second.find(word[4:-4]) for word in words]
    assert np.mean([abs(place - 4 - 32 * n) <= 8 for n, place in enumerate(found)]) > 0.8
    assert first != b"".join(b"^" + text + b"$" for text in texts)


def test_the_order_changes_with_the_epoch_and_the_seed():
    corpus = pack([bytes(range(200))])
    rows = ShardRows(corpus, 8, 8, seed=1)
    one = rows.batch(range(len(rows)))["ids"]
    two = rows.batch(range(len(rows), 2 * len(rows)))["ids"]
    other = ShardRows(corpus, 8, 8, seed=2).batch(range(len(rows)))["ids"]
    assert (one != two).any() and (one != other).any()
    copy = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(copy.batch(range(len(rows)))["ids"], one)


def test_pieces_do_not_see_each_other_and_scripts_stay_with_their_documents():
    corpus = pack([b"abcdef", b"XYZ"])
    corpus.scripts = np.array([7, 9], np.int32)
    row = ShardRows(corpus, corpus.num_symbols + 2, 2, seed=0).batch([0])
    ids, segments, scripts = (row[name][0] for name in ("ids", "document_ids", "scripts"))
    pieces = {text_of(ids[segments == n], Vocabulary()) for n in range(1, segments.max() + 1)}
    assert pieces == {b"^ab", b"cd", b"ef$", b"^XY", b"Z$"}
    for symbol, script in zip(ids, scripts, strict=True):
        letter = chr(symbol) if symbol < 256 else ""
        assert script == {True: 7, False: 9}[letter.islower()] or not letter
    assert (scripts[segments == 0] == -1).all()


@pytest.mark.parametrize("length", [1, 5])
def test_an_empty_document_is_read(length):
    rows = ShardRows(pack([b""]), length, 4, seed=0)
    batch = rows.batch(range(len(rows)))
    assert batch["ids"].ravel()[:2].tolist() == [START, END]
    assert batch["targets"].ravel()[:2].tolist() == [END, UNSCORED]
