"""StochasTok: tokens split at random, so that a model sees what they are made of (2506.01687)."""

from collections.abc import Sequence

import numpy as np


class Splits:
    """All ways to write each token as two tokens."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """Finds them.

        Args:
            token_bytes: the bytes of each token, `b""` for ids that stand for no text.
        """
        ids: dict[bytes, list[int]] = {}
        for number, token in enumerate(token_bytes):
            ids.setdefault(token, []).append(number)
        self.pairs = [
            [
                (left, right)
                for cut in range(1, len(token))
                for left in ids.get(token[:cut], ())
                for right in ids.get(token[cut:], ())
            ]
            for token in token_bytes
        ]

    def expand(
        self, tokens: np.ndarray, share: float, random: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Splits random tokens, also those that a split has made (Section 3.1).

        Each of `int(N * share)` draws takes any token of the text so far, and splits it in one of
        its ways; a token without one is kept, and so are the ids after the tokens (END, START).

        Args:
            tokens: int32 `[N]`.
            share: of the tokens to draw, 0.1 in the paper.
            random: where chance comes from.

        Returns:
            int32 `[M]` with the same bytes, N <= M <= N + draws, and for each of these the index
            in `tokens` of what it comes from, int64 `[M]`.
        """
        draws = int(len(tokens) * share)
        ids, source = tokens.tolist(), list(range(len(tokens)))
        # A right half goes to the end of the lists, where any token is as likely to be drawn.
        following = list(range(1, len(ids) + 1))
        for place, way in random.random_sample((draws, 2)).tolist():
            drawn = int(place * len(ids))
            pairs = self.pairs[ids[drawn]] if ids[drawn] < len(self.pairs) else ()
            if pairs:
                ids[drawn], right = pairs[int(way * len(pairs))]
                following.append(following[drawn])
                following[drawn] = len(ids)
                ids.append(right)
                source.append(source[drawn])
        order, place = np.empty(len(ids), np.int64), 0
        for index in range(len(ids)):
            order[index] = place
            place = following[place]
        return np.array(ids, np.int32)[order], np.array(source, np.int64)[order]
