"""StochasTok: tokens are split at random, to show their spelling (arXiv 2506.01687)."""

from collections.abc import Sequence

import numpy as np

from bytelm.data.corpus.packing import Arrays, Corpus, CorpusRows, Indices, Rows
from bytelm.data.tasks.task import random_of
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
        self._whole = Rows(corpus, max(1, int(length / (1 + share))))
        self._split = Rows(corpus, length)
        self._share = share
        self._splits = Splits(tokenizer.token_bytes)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._whole)

    def batch(self, indices: Indices, places: Indices | None = None) -> Arrays:
        whole = self._whole.batch(indices)
        batch = self._split.batch([len(self._split)] * len(indices))  # padding
        for row, place in enumerate(indices if places is None else places):
            count = np.count_nonzero(whole["document_ids"][row])
            random = random_of(self._seed, int(place))
            ids, source = self._splits.expand(whole["ids"][row, :count], self._share, random)
            following = np.append(ids[1:], whole["targets"][row, count - 1 : count])
            batch["ids"][row, : len(ids)] = ids
            batch["targets"][row, : len(ids)] = self.corpus.vocabulary.scored(following)
            for name in batch.keys() & {"document_ids", "scripts"}:
                batch[name][row, : len(ids)] = whole[name][row][source]
        assert self.corpus.byte_counts is not None
        batch["byte_counts"] = self.corpus.byte_counts[batch["targets"]]
        return batch
