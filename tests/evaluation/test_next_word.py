from types import SimpleNamespace

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START
from bytelm.evaluation.next_word import NextWord, word_bounds
from bytelm.evaluation.suite import evaluate
from tests.evaluation.table_models import Table, loaded, run, table, values


@pytest.fixture(scope="module")
def model():
    """Writes `ab ab ...`, and `c` and then the end after a dot."""
    logits = table()
    for before, after in zip([START, *b" ab.c"], [*b"aab c", END], strict=True):
        logits[before, after] = 9
    return loaded(Table(logits))


def test_a_word_is_right_with_the_byte_that_ends_it(model):
    documents = [b"ab  ab abb ab", b"", b"ab\tab .c", b"\n.", b"c", b"ab "]
    # First: ab, ab and no abb; the last ab does not end the text. Then: no ab before a tab, as a
    # space is likelier, and no ab after it; .c is wrong at its dot. ab is right before a space.
    found = values(run(NextWord(), model, documents))
    assert found == {
        "next_word_accuracy": 3 / 10,
        "next_word_accuracy/1": 0,
        "next_word_accuracy/2": 3 / 7,
        "next_word_accuracy/3-4": 0,
    }


def test_a_word_that_was_cut_does_not_count(model):
    result = run(NextWord(), model, [b"ab ab"], max_bytes=4)
    assert result.details == {"words": 1, "right": 1}
    assert run(NextWord(), model, [b"ab ab"]).details == {"words": 2, "right": 1}
    assert run(NextWord(), model, [b"c ab "], max_bytes=4).details == {"words": 1, "right": 0}
    with pytest.raises(UserError, match="no bytes that count for next_word_accuracy"):
        run(NextWord(), model, [b"\n \n"])


def test_a_right_word_is_what_greedy_decoding_writes():
    logits, letters = table(), np.frombuffer(b"ab ", np.uint8)
    logits[[START, *letters], [*b"ab a"]] = 9
    best = logits.argmax(axis=1)
    texts = [bytes(np.random.default_rng(seed).choice(letters, 40)) for seed in range(12)]
    right = total = 0
    for text in texts:
        symbols = [*text, END]
        for first, last in zip(*word_bounds(text), strict=True):
            written, before = [], symbols[first - 1] if first else START
            while len(written) <= last - first:
                before = int(best[before])
                written.append(before)
            right += written == symbols[first : last + 1]
            total += 1
    found = run(NextWord(), loaded(Table(logits)), texts, stride=3)
    assert found.details == {"words": total, "right": right} and right > 5
    accuracy = found.figures[0]
    assert accuracy.low < accuracy.value < accuracy.high


def test_bounds_of_words():
    first, last = word_bounds("\u3000a bé\n ".encode())
    assert (first.tolist(), last.tolist()) == ([3, 5], [4, 8])


def test_subword_models_are_refused():
    config = SimpleNamespace(model=SimpleNamespace(family="mine"))
    model = SimpleNamespace(has_encoder=False, tokenizer=SimpleNamespace(), config=config)
    with pytest.raises(UserError, match="next_word needs a model whose symbols are bytes"):
        evaluate(model, "text", ["next_word"])
