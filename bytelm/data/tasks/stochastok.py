"""Training rows of tokens, some of which are split in two (StochasTok, arXiv 2506.01687)."""

from collections.abc import Sequence

import numpy as np

from bytelm.core.vocabulary import UNSCORED
from bytelm.data.config import DataConfig
from bytelm.data.corpus.packing import Rows
from bytelm.data.corpus.tokens import TokenCorpus
from bytelm.data.tasks.encoder_decoder import random_of
from bytelm.tokenizers.stochastok import Splits
from bytelm.tokenizers.tokenizer import Tokenizer


class StochasticRows:
    """Rows of as many tokens as have room once the share `data.stochastok` of them is split.

    A row is split anew each time that it is read. No text is lost: a row that makes fewer than T
    symbols is padded.
    """

    def __init__(
        self, corpus: TokenCorpus, config: DataConfig, tokenizer: Tokenizer, seed: int
    ) -> None:
        self._length = config.sequence_length
        self._share = config.stochastok
        self._rows = Rows(corpus, max(1, int(config.sequence_length / (1 + config.stochastok))))
        self._splits = Splits(tokenizer.token_bytes)
        self._seed = seed
        self._corpus = corpus

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
        vocabulary = self._corpus.vocabulary
        there = int(np.count_nonzero(row["document_ids"]))
        random = random_of(self._seed, place)
        ids, source = self._splits.expand(row["ids"][:there], self._share, random)
        targets = np.append(ids[1:], row["targets"][there - 1 : there]).astype(np.int32)
        targets[targets > vocabulary.end] = UNSCORED

        def padded(values: np.ndarray, filler: int) -> np.ndarray:
            return np.pad(values, (0, self._length - len(values)), constant_values=filler)

        targets = padded(targets, UNSCORED)
        found = {
            "ids": padded(ids, vocabulary.pad),
            "targets": targets,
            "document_ids": padded(row["document_ids"][source], 0),
        }
        assert self._corpus.byte_counts is not None
        found["byte_counts"] = self._corpus.byte_counts[targets]
        if "scripts" in row:
            found["scripts"] = padded(row["scripts"][source], -1)
        return found
