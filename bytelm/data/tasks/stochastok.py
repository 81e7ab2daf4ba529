"""Training rows of tokens, with some tokens split in two (StochasTok, arXiv 2506.01687)."""

from collections.abc import Sequence

import numpy as np

from bytelm.core.vocabulary import UNSCORED
from bytelm.data.corpus.packing import Corpus, CorpusRows, Rows
from bytelm.data.tasks.examples import random_of
from bytelm.tokenizers.tokenizer import Tokenizer


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


class StochasticRows(CorpusRows):
    """Rows of as many tokens as fit once a share of them is split in two.

    The splits are drawn again each time that a row is read. No text is lost: a row with fewer than
    T symbols is padded.
    """

    def __init__(
        self, corpus: Corpus, length: int, share: float, tokenizer: Tokenizer, seed: int
    ) -> None:
        """Defines the rows.

        Args:
            corpus: of the tokenizer's tokens.
            length: T.
            share: of the tokens, that are split.
            tokenizer: whose tokens they are.
            seed: of the splits.
        """
        super().__init__(corpus)
        self._length = length
        self._share = share
        self._rows = Rows(corpus, max(1, int(length / (1 + share))))
        self._splits = Splits(tokenizer.token_bytes)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)

    def batch(
        self, indices: Sequence[int] | np.ndarray, places: Sequence[int] | np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Several rows, as `Rows.batch` gives them."""
        whole = self._rows.batch(indices)
        places = indices if places is None else places
        rows = [
            self._split({name: values[row] for name, values in whole.items()}, int(place))
            for row, place in enumerate(places)
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _split(self, row: dict[str, np.ndarray], place: int) -> dict[str, np.ndarray]:
        vocabulary = self.corpus.vocabulary
        there = int(np.count_nonzero(row["document_ids"]))
        random = random_of(self._seed, place)
        ids, source = self._splits.expand(row["ids"][:there], self._share, random)
        following = np.append(ids[1:], row["targets"][there - 1 : there]).astype(np.int32)

        def padded(values: np.ndarray, filler: int) -> np.ndarray:
            return np.pad(values, (0, self._length - len(values)), constant_values=filler)

        targets = padded(vocabulary.scored(following), UNSCORED)
        found = {
            "ids": padded(ids, vocabulary.pad),
            "targets": targets,
            "document_ids": padded(row["document_ids"][source], 0),
        }
        assert self.corpus.byte_counts is not None
        found["byte_counts"] = self.corpus.byte_counts[targets]
        if "scripts" in row:
            found["scripts"] = padded(row["scripts"][source], -1)
        return found
