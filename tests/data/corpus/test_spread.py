"""Rows that represent a whole corpus."""

import numpy as np
import pytest

from bytelm.core.vocabulary import END, PAD, START, UNSCORED, Vocabulary
from bytelm.data.corpus.packing import Corpus, Rows, pack
from bytelm.data.corpus.spread import DrawnRows, SpreadRows, drawn_rows, fit

LENGTH = 32


def documents(seed: int, count: int, longest: int) -> list[bytes]:
    random = np.random.RandomState(seed)
    return [random.bytes(random.randint(longest)) for _ in range(count)]


def cost(batch: dict[str, np.ndarray]) -> float:
    """Mean over the targets of a cost that falls with context and differs between bytes."""
    ids, segments = batch["ids"], batch["document_ids"]
    position = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    begins = np.diff(segments, axis=1, prepend=-1) != 0
    context = position - np.maximum.accumulate(np.where(begins, position, 0), axis=1)
    costs = 1 / (1 + context) + (ids % 7 == 0)
    return float(costs[batch["targets"] != UNSCORED].mean())


def all_rows(corpus: Corpus) -> dict[str, np.ndarray]:
    rows = Rows(corpus, LENGTH)
    return rows.batch(range(len(rows)))


def picked(texts: list[bytes], wanted: int) -> dict[str, np.ndarray]:
    rows = SpreadRows(pack(texts), LENGTH, wanted)
    return rows.batch(range(len(rows)))


@pytest.mark.parametrize("longest", [8, LENGTH, 40 * LENGTH])
def test_a_part_costs_what_the_whole_costs(longest):
    texts = documents(0, 40_000 // longest, longest)
    whole = cost(all_rows(pack(texts)))
    # The mean over disjoint parts has no bias; the width is that of the mean of 2,400 symbols.
    costs = [cost(picked(documents(seed, 40_000 // longest, longest), 75)) for seed in range(4)]
    assert np.mean(costs) == pytest.approx(whole, abs=0.025)


def test_all_text_is_taken_once_where_there_is_no_more():
    texts = documents(1, 30, 3 * LENGTH)
    batch = picked(texts, 10_000)
    scored = batch["targets"] != UNSCORED
    assert scored.sum() == sum(len(text) + 1 for text in texts)
    counts = np.bincount(batch["targets"][scored], minlength=END + 1)
    wanted = np.bincount(np.frombuffer(b"".join(texts), np.uint8), minlength=END + 1)
    wanted[END] = len(texts)
    np.testing.assert_array_equal(counts, wanted)
    assert ((batch["ids"] == PAD) == (batch["document_ids"] == 0)).all()
    assert (batch["ids"] == START).sum() == len(texts)


def test_neither_order_nor_a_few_more_documents_change_it():
    texts = documents(2, 200, 4 * LENGTH)
    batch = picked(texts, 20)
    assert sorted(runs(picked(texts[::-1], 20))) == sorted(runs(batch))
    more = documents(3, 20, 4 * LENGTH)
    before, after = (set(runs(each)) for each in (batch, picked(more + texts, 20)))
    assert len(before & after) > 0.8 * len(before)


def runs(batch: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
    """Runs of three ids, which random text hardly repeats."""
    ids = batch["ids"]
    runs = np.stack([ids[:, :-2], ids[:, 1:-1], ids[:, 2:]], axis=-1).reshape(-1, 3)
    return [tuple(run) for run in runs.tolist() if PAD not in run]


def test_pieces_are_of_the_same_text_for_bytes_and_tokens():
    texts = [text.replace(b"b", b"a") + b"aa" for text in documents(4, 60, 300)]
    as_bytes = pack(texts)
    # Every two bytes are one token.
    pairs = [np.frombuffer(text[: len(text) // 2 * 2], "<u2") for text in texts]
    starts = np.cumsum([0, *(len(pair) + 2 for pair in pairs)])
    symbols = np.concatenate([np.pad(pair, 1) for pair in pairs])
    counts = np.full(2**16 + 3, 2, np.int32)
    as_tokens = Corpus(symbols, starts, vocabulary=Vocabulary(2**16), byte_counts=counts)
    rows = SpreadRows(as_bytes, LENGTH, 40, shard_bytes=20)
    of_tokens = SpreadRows(as_tokens, LENGTH // 2, 40, shard_bytes=20, text=as_bytes)
    # About as many symbols of text in each, without START and END.
    found = [
        set(_beginnings(each, corpus))
        for each, corpus in ((rows, as_bytes), (of_tokens, as_tokens))
    ]
    assert len(found[0]) > 50
    assert len(found[0] & found[1]) >= 0.9 * min(map(len, found))
    batch = rows.batch(range(len(rows)))
    assert (batch["document_ids"] > 0).mean() > 0.95


def _beginnings(rows: SpreadRows, corpus: Corpus) -> list[tuple[int, int]]:
    """The document of each fragment, and its first byte."""
    found = []
    for row in rows._plan:
        for first, _ in row:
            document = int(np.searchsorted(corpus.starts, first, side="right")) - 1
            offset = max(0, first - int(corpus.starts[document]) - 1)
            found.append((document, offset * (1 if corpus.byte_counts is None else 2) // 20))
    return found


def test_fit_leaves_little_room():
    sizes = np.random.RandomState(0).randint(1, 33, 300).tolist()
    rows = fit(sizes, 32)
    assert sorted(thing for row in rows for thing in row) == list(range(300))
    assert all(sum(sizes[thing] for thing in row) <= 32 for row in rows)
    assert len(rows) <= 1.1 * sum(sizes) / 32 + 1


def test_drawn_rows_stay_when_rows_are_added():
    def numbers(count: int) -> set[int]:
        rows = Rows(pack([bytes([1]) * (LENGTH * count - 2)]), LENGTH)
        drawn = drawn_rows(rows, 10)
        assert (drawn.batch([10])["ids"] == PAD).all()
        return set(drawn._chosen.tolist())

    assert len(numbers(100)) == 10 and max(numbers(100)) > 50
    assert len(numbers(100) & numbers(110)) >= 7
    assert len(DrawnRows(Rows(pack([b"a"]), LENGTH), np.arange(3))) == 3
