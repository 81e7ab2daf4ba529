"""StochasTok: tokens are split at random, to show their spelling (arXiv 2506.01687)."""

from collections.abc import Sequence

import numpy as np

from bytelm.data.corpus.packing import Corpus, CorpusRows, Rows
from bytelm.data.tasks.examples import random_of
from bytelm.tokenizers.tokenizer import Tokenizer


class Splits:
    """All ways to write each token as two tokens."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """Finds the pairs; `token_bytes` is `b""` for ids without text."""
        ids: dict[bytes, list[int]] = {}
        for index, token in enumerate(token_bytes):
            ids.setdefault(token, []).append(index)
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
        """Splits random tokens, including those that a split has made (Section 3.1).

        Each of `int(N * share)` draws takes any token of the text so far and splits it in a random
        way. Tokens that cannot be split, END and START stay as they are.

        Args:
            tokens: int32 `[N]`.
            share: draws per token, 0.1 in the paper.
            random: source of randomness.

        Returns:
            the new tokens, int32 `[M]`, N <= M <= N + draws, with the same bytes; and for each the
            index in `tokens` of the token that it comes from, int64 `[M]`.
        """
        draws = int(len(tokens) * share)
        ids, source = tokens.tolist(), list(range(len(tokens)))
        # A linked list: right halves are appended, so that every token is equally likely.
        following = list(range(1, len(ids) + 1))
        for which, way in random.random_sample((draws, 2)).tolist():
            drawn = int(which * len(ids))
            pairs = self.pairs[ids[drawn]] if ids[drawn] < len(self.pairs) else ()
            if pairs:
                ids[drawn], right = pairs[int(way * len(pairs))]
                following.append(following[drawn])
                following[drawn] = len(ids)
                ids.append(right)
                source.append(source[drawn])
        order, current = np.empty(len(ids), np.int64), 0
        for index in range(len(ids)):
            order[index] = current
            current = following[current]
        return np.array(ids, np.int32)[order], np.array(source, np.int64)[order]


class StochasticRows(CorpusRows):
    """Rows of as many tokens as fit after a share of them has been split in two.

    Training draws new splits each time it reads a row. A row with fewer than T symbols is padded;
    no text is lost.
    """

    def __init__(
        self, corpus: Corpus, length: int, share: float, tokenizer: Tokenizer, seed: int
    ) -> None:
        """Defines rows of `length` (T) tokens after `share` of the tokens is split."""
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
        batch = self._rows.batch(indices)
        places = indices if places is None else places
        rows = [
            self._split({name: values[row] for name, values in batch.items()}, int(place))
            for row, place in enumerate(places)
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _split(self, row: dict[str, np.ndarray], place: int) -> dict[str, np.ndarray]:
        count = int(np.count_nonzero(row["document_ids"]))
        random = random_of(self._seed, place)
        ids, source = self._splits.expand(row["ids"][:count], self._share, random)
        following = np.append(ids[1:], row["targets"][count - 1 : count])
        arrays = {"ids": ids, "targets": self.corpus.vocabulary.scored(following)}
        arrays |= {name: row[name][source] for name in ("document_ids", "scripts") if name in row}
        filler = {"ids": self.corpus.vocabulary.pad, "document_ids": 0}
        padding = (0, self._length - len(ids))
        found = {
            name: np.pad(values, padding, constant_values=filler.get(name, -1))
            for name, values in arrays.items()
        }
        assert self.corpus.byte_counts is not None
        found["byte_counts"] = self.corpus.byte_counts[found["targets"]]
        return found
