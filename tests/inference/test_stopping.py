import numpy as np
import pytest

from bytelm.core.vocabulary import END
from bytelm.inference.stopping import StopFilter


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        (b"one, two; three", [b";"], b"one, two"),
        (b"one, two; three", [b"o; t", b"e, x"], b"one, tw"),
        (b"aaab", [b"aab"], b"a"),
        (b"abcabd", [b"abd"], b"abc"),
        (b"abcd", [b"abcd", b"c"], b"ab"),
        (b"abab", [b"babx"], b"abab"),
        (b"kept", [], b"kept"),
    ],
)
def test_stop_filter_does_not_depend_on_the_chunks(size, text, stop, expected):
    row = StopFilter(stop)
    symbols = np.array([*text, END, *text])
    out = b"".join(row.feed(symbols[i : i + size]) for i in range(0, len(symbols), size))
    assert out + row.flush() == expected
    assert row.ended
