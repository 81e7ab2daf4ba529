"""The data of a run, opened once: its sources, their packed documents, and its tokenizer."""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from bytelm.data.config import DataConfig
from bytelm.data.corpus.cache import PackedCorpus, packed_corpus, with_pieces
from bytelm.data.corpus.packing import Corpus, RowSource
from bytelm.data.corpus.tokens import token_corpus
from bytelm.data.order import EndlessShuffle, source_seed
from bytelm.data.sources.source import Source, open_source
from bytelm.data.splits import Split
from bytelm.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bytelm.tokenizers.unigram import Unigram

T = TypeVar("T")


class OpenData:
    """What a config of data names, each opened when it is first needed and then kept.

    A program opens its data once, at its start, and passes this object to whatever reads text.

    Attributes:
        config: of the data.
    """

    def __init__(self, config: DataConfig, sources: Sequence[Source] | None = None) -> None:
        """Opens nothing yet.

        Args:
            config: of the data.
            sources: in place of those that the config names.
        """
        self.config = config
        if sources is not None:
            self.sources = tuple(sources)
        self._kept: dict[Hashable, Any] = {}

    @functools.cached_property
    def sources(self) -> tuple[Source, ...]:
        """Of a mixture several; none for a task that makes up its own text.

        Raises:
            UserError: for a bad source.
        """
        if self.config.task.makes_text:
            return ()
        parts, path = self.config.source_configs, self.config.cache_path
        return tuple(open_source(part, path) for part in parts)

    @property
    def sequence_length(self) -> int:
        """Of the config."""
        return self.config.sequence_length

    @property
    def scripts(self) -> tuple[str, ...]:
        """Of the config."""
        return self.config.scripts

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources, or of the task that makes up its own text."""
        return tuple(source.name for source in self.sources) or (self.config.task.kind,)

    @property
    def weights(self) -> list[float]:
        """The weight of each of `names` in the mixture."""
        return [part.weight for part in self.config.source_configs]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of `data.tokenizer`; None if symbols are bytes."""
        path = self.config.task.tokenizer
        return None if path is None else load_tokenizer(path)

    @functools.cached_property
    def unigram(self) -> Unigram | None:
        """The model of `data.unigram`; None if batches carry no boundaries."""
        path = self.config.task.unigram
        return None if path is None else Unigram(path)

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, which is called once for each key."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def packed(self, source: Source, split: Split) -> PackedCorpus:
        """The documents of a split as bytes.

        Raises:
            UserError: for a split without text, a full disk, or a bad source.
        """
        return self.kept(
            ("packed", source, split), lambda: packed_corpus(source, split, self.config.cache_path)
        )

    def corpus(self, source: Source, split: Split) -> Corpus:
        """The documents of a split as the task reads them: with scripts and boundaries, or tokens.

        Raises:
            UserError: as `packed`, and for a document whose script is not in `data.scripts`.
        """
        return self.kept(("corpus", source, split), lambda: self._corpus(source, split))

    def _corpus(self, source: Source, split: Split) -> Corpus:
        packed = self.packed(source, split).with_scripts(self.config.scripts)
        if self.unigram is not None:
            return with_pieces(packed, self.unigram, self.config.cache_path)
        if self.tokenizer is not None:
            return token_corpus(packed, self.tokenizer, self.config.cache_path)
        return packed

    def training_rows(self, seed: int) -> list[RowSource]:
        """The rows to train on, of each source; `seed` decides what is random in them."""
        return self.config.task.training_rows(self, seed)

    def join_fingerprints(self, fingerprints: Sequence[str]) -> str:
        """The fingerprint of all that a run reads, from those of its sources."""
        models = (self.unigram, self.tokenizer)
        return "-".join([*fingerprints, *(model.digest for model in models if model)])


class Documents:
    """The documents of a split of every source, in order; they can be read again and again.

    Args:
        data: whose sources they are of.
        split: which split.

    Raises:
        UserError: for a bad source.
    """

    def __init__(self, data: OpenData, split: Split) -> None:
        self._corpora = [data.packed(source, split) for source in data.sources]

    @property
    def raw_bytes(self) -> int:
        """How many bytes the documents have together."""
        return sum(corpus.num_bytes for corpus in self._corpora)

    def __iter__(self) -> Iterator[bytes]:
        for corpus in self._corpora:
            yield from corpus.documents()


def training_text(data: OpenData, max_bytes: int) -> Iterator[bytes]:
    """Documents of the train split in random order, always the same one.

    If there is more text than `max_bytes`, each source gives its share by its weight in the
    mixture, and its last document is cut.

    Args:
        data: the text.
        max_bytes: most bytes of all sources together.

    Raises:
        UserError: for a bad source.
    """
    for number, source in enumerate(data.sources):
        share = max_bytes * data.weights[number] / sum(data.weights)
        yield from _first_bytes(_shuffled(source, data, source_seed(0, number)), int(share))


def _shuffled(source: Source, data: OpenData, seed: int) -> Iterator[bytes]:
    """The texts of the train split in random order, read as training reads them."""
    stored = None
    if data.config.task.streamed:
        stored = source.reader.random_access(source.stored_split("train"))
    if stored is not None:
        texts = stored
        order = EndlessShuffle(0, len(texts), seed)
        parts = (
            source.placement.part_in("train", texts[order[place]]) for place in range(len(texts))
        )
        return (part for part in parts if part is not None)
    corpus = data.packed(source, "train")
    order = EndlessShuffle(0, corpus.num_documents, seed)
    return (corpus.document(order[place]) for place in range(corpus.num_documents))


def _first_bytes(texts: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The first texts, the last of them cut, that have `count` bytes together."""
    for text in texts:
        yield text[:count]
        count -= len(text)
        if count <= 0:
            return
