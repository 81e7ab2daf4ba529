"""Whole documents, for evaluation."""

from collections.abc import Iterator, Sequence

from bytelm.core.errors import UserError
from bytelm.data.config import SPLITS, DataConfig, Split
from bytelm.data.corpus.cache import packed_corpus
from bytelm.data.sources.source import Source, open_sources


class Documents:
    """The documents of one split of every source, in order; can be read again and again.

    Args:
        config: of the sources.
        split: its name.
        sources: of the config, where they are open already.

    Raises:
        UserError: for a split of another name, or a bad source.
    """

    def __init__(self, config: DataConfig, split: str, sources: Sequence[Source] | None = None):
        known = check_split(split)
        self._corpora = [
            packed_corpus(source, known, config.cache_path)
            for source in (open_sources(config) if sources is None else sources)
        ]

    @property
    def raw_bytes(self) -> int:
        """How many bytes the documents have together."""
        return sum(len(corpus.symbols) - 2 * corpus.num_documents for corpus in self._corpora)

    def __iter__(self) -> Iterator[bytes]:
        for corpus in self._corpora:
            yield from corpus.documents()


def check_split(name: str) -> Split:
    """The name, if it is a split's; UserError otherwise."""
    for split in SPLITS:
        if split == name:
            return split
    raise UserError(f"there is no split {name!r}; choose one of {', '.join(SPLITS)}.")
