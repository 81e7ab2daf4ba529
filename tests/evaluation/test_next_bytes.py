from types import SimpleNamespace

import numpy as np
import pytest

from bytelm.core.vocabulary import Vocabulary
from bytelm.evaluation.robustness import NextBytes

TEXTS = (b"a", b"b", b"ab", b"abc", b"abd", b"", b"b")
"""Two ids of equal bytes, and one of none."""


def guesses(probabilities) -> NextBytes:
    vocabulary = Vocabulary(len(TEXTS))
    assert len(probabilities) == vocabulary.outputs
    return NextBytes(SimpleNamespace(token_bytes=TEXTS, vocabulary=vocabulary))


def right(probabilities, token: bytes) -> int:
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(probabilities, np.float32))
    return guesses(probabilities).right(logits, TEXTS.index(token))


def test_a_byte_has_the_mass_of_all_tokens_that_go_on_with_it():
    #                a    b    ab   abc  abd  -    b    END
    probabilities = [0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2]
    assert right(probabilities, b"a") == 1  # 0.4 of four tokens, against 0.3 of two
    assert right(probabilities, b"b") == 0
    assert right(probabilities, b"ab") == 2  # within a token all that go on do so with b
    assert right([0.1, 0.3, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2], b"abd") == 2  # not its first byte
    assert right([0.0, 0.0, 0.0, 0.6, 0.4, 0.0, 0.0, 0.0], b"abd") == 2  # c is likelier than d
    assert right([0.0, 0.0, 0.0, 0.6, 0.4, 0.0, 0.0, 0.0], b"abc") == 3


def test_ids_without_bytes_are_no_guess_and_the_end_is_a_wrong_one():
    assert right([0.3, 0.1, 0.0, 0.0, 0.0, 0.5, 0.0, 0.1], b"a") == 1
    assert right([0.3, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6], b"a") == 0


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_count_over_the_vocabulary(seed):
    logits = np.random.default_rng(seed).normal(size=len(TEXTS) + 1).astype(np.float32)
    for token in (0, 1, 2, 3, 4, 6):
        text, expected = TEXTS[token], 0
        for depth in range(len(text)):
            mass = dict.fromkeys(range(256), 0.0)
            for index, other in enumerate(TEXTS):
                if len(other) > depth and other[:depth] == text[:depth]:
                    mass[other[depth]] += float(np.exp(logits[index]))
            best = max(mass, key=lambda byte: mass[byte])
            ended = depth == 0 and float(np.exp(logits[-1])) > mass[best]
            expected += best == text[depth] and not ended
        assert guesses(range(len(TEXTS) + 1)).right(logits, token) == expected


def test_a_token_that_is_very_unlikely_still_has_a_likeliest_byte():
    logits = np.array([0, 0, -300, -201, -200, 0, 0, 0], np.float32)
    assert guesses(logits).right(logits, 4) == 2  # b, the only way on, and d; not a
