import numpy as np
import pytest

from bytelm.inference.shared_prefix import shared_prefix


@pytest.mark.parametrize(
    ("texts", "prefix"),
    [
        ([], b""),
        ([b"alone"], b""),
        ([b"a", b"b"], b""),
        ([b"same", b"same"], b"sam"),  # one symbol of each is left
        ([b"ab", b"abc"], b"a"),
        ([b"abcdefgh1", b"abx", b"aby", b"abcdefgh2"], b"abcdefgh"),  # 8 x 1 saved, not 2 x 3
        ([b"abc1", b"abx", b"aby", b"abc2", b"q"], b"ab"),
        ([b"z", b"long, long, and twice", b"long, long, and thrice"], b"long, long, and t"),
    ],
)
def test_the_prefix_saves_the_most(texts, prefix):
    symbols = [np.frombuffer(text, np.uint8) for text in texts]
    text, length = shared_prefix(symbols)
    assert (texts[text][:length] if texts else b"") == prefix
