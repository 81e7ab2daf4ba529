import numpy as np
import pytest

from bytelm.codec.frequencies import TOTAL
from bytelm.codec.rows import Decoder, Diverged, Encoder, run

OUTPUTS, START = 5, 6
BYTE_COUNTS = np.array([1, 1, 2, 3, 0, 0, 0])


class Tables:
    """Frequencies that depend on the place alone."""

    def __init__(self, rows, seed=0):
        self.rows, self.rng = rows, np.random.default_rng(seed)

    def after(self, symbols, reading):
        shares = self.rng.dirichlet(np.full(OUTPUTS, 0.3), self.rows)
        free = np.floor(shares * (TOTAL - OUTPUTS))
        free[:, 0] += TOTAL - OUTPUTS - free.sum(axis=1)
        return free.astype(np.float32)


def code(side, sizes, seed=0):
    done = []
    found = run(side, Tables(len(sizes), seed), START, sizes, BYTE_COUNTS, done.append)
    assert sum(done) == sum(sizes)
    return [row.tolist() for row in found]


def random_rows(count, symbols):
    rng = np.random.default_rng(1)
    return [rng.integers(0, 4, rng.integers(0, symbols)) for _ in range(count)]


def test_rows_that_end_at_different_places_come_back_in_their_bits():
    rows = [np.array([], int), *random_rows(7, 300)]
    sizes = [int(BYTE_COUNTS[row].sum()) for row in rows]
    encoder = Encoder(rows)
    assert code(encoder, sizes) == [row.tolist() for row in rows]
    stream = encoder.stream()
    assert 0 <= 8 * len(stream) - encoder.bits <= 34  # the last word
    assert code(Decoder(stream), sizes) == [row.tolist() for row in rows]


def test_frequencies_are_those_of_the_coder():
    """A thousand symbols of the least frequency, and as many that are nearly certain."""
    free = np.zeros((1, OUTPUTS), np.float32)
    free[0, 3] = TOTAL - OUTPUTS
    for symbol, bits in ((2, 24_000), (3, 1000 * -np.log2((TOTAL - OUTPUTS + 1) / TOTAL))):
        encoder = Encoder([np.full(1000, symbol)])
        for _ in range(1000):
            encoder.next(free, np.ones(1, bool))
        assert encoder.bits == pytest.approx(bits)
        assert 0 <= 8 * len(encoder.stream()) - bits <= 34


def test_other_frequencies_are_noticed_or_give_other_symbols():
    rows = random_rows(3, 100)
    sizes = [int(BYTE_COUNTS[row].sum()) for row in rows]
    encoder = Encoder(rows)
    code(encoder, sizes)
    for seed in range(1, 5):
        try:
            found = code(Decoder(encoder.stream()), sizes, seed)
        except Diverged:
            continue
        assert found != [row.tolist() for row in rows]
