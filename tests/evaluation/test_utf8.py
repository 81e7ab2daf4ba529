import itertools

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START
from bytelm.evaluation.utf8 import (
    AUTOMATON,
    INVALID,
    UTF8,
    invalid_bytes,
    invalid_symbols,
    symbol_states,
)
from tests.evaluation.table_models import Pairs, Table, loaded, random_table, run, values

EDGES = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")
LOGITS, BITS = random_table()


def is_prefix(text):
    """Whether any UTF-8 begins with these bytes: some continuation bytes complete it."""
    for count in range(4):
        for more in (b"\x80", b"\x9f", b"\xbf"):
            try:
                (text + (more + b"\x80" * count)[:count]).decode()
            except UnicodeDecodeError:
                continue
            return True
    return False


def test_the_automaton_accepts_what_python_decodes():
    texts = [bytes(text) for n in (1, 2, 3) for text in itertools.product(EDGES, repeat=n)]
    texts += [
        bytes((*head, *tail))
        for head in itertools.product(b"\xf0\xf1\xf4", EDGES)
        for tail in itertools.product(b"\x7f\x80\xbf\xc2", repeat=2)
    ]
    for text in texts:
        state = 0
        for byte in text:
            state = AUTOMATON[state, byte]
        try:
            text.decode()
            assert state == 0
        except UnicodeDecodeError:
            assert state != 0
            assert (state == INVALID) == (not is_prefix(text))


def test_a_wrong_byte_starts_again():
    text = "é€".encode() + b"\xe2\x82a\xe2\xc3\xa9\xff\x80"
    states = symbol_states(bytes([byte]) for byte in text)
    assert states.tolist() == [0, 1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 0, 0, 0]
    assert invalid_bytes(text) == 2 + 1 + 2 and invalid_bytes("é€😀".encode()) == 0
    assert invalid_bytes(b"a\xe2\x82") == 2 and invalid_bytes(b"a\xe2\x82", cut=True) == 0
    assert invalid_bytes(b"\xe2a", cut=True) == 1


def by_hand(documents):
    """Probabilities of invalid symbols, between characters and inside them."""
    places = ([], [])
    for text in documents:
        for end, before in enumerate([START, *text]):
            inside = text[:end] != text[:end].decode(errors="ignore").encode()
            wrong = [byte for byte in range(256) if not is_prefix(text[:end] + bytes([byte]))]
            mass = sum(2.0 ** -BITS[before, byte] for byte in [*wrong, *([256] if inside else [])])
            places[inside].append(mass)
    return places


@pytest.fixture(scope="module")
def model():
    return loaded(Table(LOGITS))


def test_mass_on_what_cannot_follow(model):
    documents = ["aé€".encode(), b"", "😀\ud7ffb".encode(), b"x\xf0\x9f"]
    between, inside = by_hand([text for text in documents if text])
    for stride in (None, 1):
        found = values(run(UTF8(samples=0), model, documents, stride=stride))
        assert found == pytest.approx(
            {
                "invalid_mass": np.mean(between + inside),
                "invalid_mass/between": np.mean(between),
                "invalid_mass/inside": np.mean(inside),
                "invalid_mass_max": max(between + inside),
            },
            rel=1e-5,
        )
    assert set(values(run(UTF8(samples=0), model, [b"abc"]))) == {
        "invalid_mass",
        "invalid_mass/between",
        "invalid_mass_max",
    }


def test_tokens_count_by_all_their_bytes():
    class Tokens(Pairs):
        token_bytes = (*Pairs.token_bytes[:256], b"\xa9a")  # the end of an e acute, and an a

        def encode(self, text):
            return np.frombuffer(text, np.uint8).astype(np.int32)

    invalid = invalid_symbols(Tokens())
    assert invalid.shape == (INVALID, 258)
    assert np.flatnonzero(~invalid[:, 256]).tolist() == [1]
    assert np.flatnonzero(~invalid[:, 257]).tolist() == [0]
    np.testing.assert_array_equal(invalid[:, :256], AUTOMATON[:INVALID] == INVALID)
    logits, bits = random_table(Tokens.vocabulary, seed=2)
    found = values(run(UTF8(samples=0), loaded(Table(logits), Tokens()), ["é".encode()]))
    wrong = [*(byte for byte in range(256) if not 0x80 <= byte <= 0xBF), 257]
    expected = sum(2.0 ** -bits[0xC3, output] for output in wrong)
    assert found["invalid_mass/inside"] == pytest.approx(expected, rel=1e-5)


def test_samples(model):
    asked = []

    def generate(prompts, **options):
        asked.append((len(prompts), options))
        return [b"", "aé".encode(), b"ab\xff", b"abcd\xc3", b"ab\xc3"]

    model.generate = generate
    result = run(UTF8(samples=5, sample_bytes=5, temperature=0.5, seed=3), model, [b"ab"])
    found = {figure.name: figure for figure in result.figures}
    assert asked == [(5, {"max_bytes": 5, "temperature": 0.5, "seed": 3})]
    valid = found["valid_samples"]
    assert valid.value == 3 / 5 and valid.low < 3 / 5 < valid.high  # one is cut inside a character
    assert found["invalid_sample_bytes"].value == 2 / (3 + 3 + 5 + 3)
    assert result.details["invalid_samples"] == [r"b'ab\xff'", r"b'ab\xc3'"]


def test_options_out_of_range():
    for options in ({"samples": -1}, {"sample_bytes": 0}, {"temperature": -1.0}):
        with pytest.raises(UserError, match="at least"):
            UTF8(**options)
