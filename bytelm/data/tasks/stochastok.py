"""Training rows of tokens, with some tokens split in two (StochasTok, arXiv 2506.01687)."""

from collections.abc import Sequence

import numpy as np

from bytelm.core.vocabulary import UNSCORED
from bytelm.data.corpus.packing import Corpus, CorpusRows, Rows
from bytelm.data.tasks.examples import random_of
from bytelm.tokenizers.stochastok import Splits
from bytelm.tokenizers.tokenizer import Tokenizer


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
