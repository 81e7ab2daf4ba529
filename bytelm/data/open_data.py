"""The opened data of a run: its sources, their packed documents, and its tokenizer."""

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

from bytelm.data.config import DataConfig
from bytelm.data.corpus.cache import PackedCorpus, packed_corpus
from bytelm.data.corpus.entropies import EntropyReader, with_entropies
from bytelm.data.corpus.packing import Corpus, RowSource
from bytelm.data.corpus.subwords import token_corpus, with_pieces
from bytelm.data.order import EndlessShuffle, source_seed
from bytelm.data.sources.reader import InputShard
from bytelm.data.sources.source import Source, open_source
from bytelm.data.text_record import Split
from bytelm.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bytelm.tokenizers.unigram import Unigram

T = TypeVar("T")


class OpenData:
    """The sources, corpora and models of a config, each opened when first needed and then kept.

    A program opens its data once and passes this object to everything that reads text.
    """

    def __init__(
        self,
        config: DataConfig,
        sources: Sequence[Source] | None = None,
        *,
        entropies: EntropyReader | None = None,
        processes: int | None = None,
    ) -> None:
        """Opens nothing yet; `sources`, if given, replace those of the config.

        With a reader, training rows have entropies, which are stored in the cache. Text is packed
        by so many processes; None = by as many as there are CPUs, if there is much of it.
        """
        self.config, self._entropies, self._processes = config, entropies, processes
        self.sequence_length = config.sequence_length
        self.scripts = config.scripts
        if sources is not None:
            self.sources = tuple(sources)
        self._kept: dict[Hashable, Any] = {}

    @functools.cached_property
    def sources(self) -> tuple[Source, ...]:
        """The sources, none for a task that makes up its own text; UserError for a bad one."""
        if self.config.task.makes_text:
            return ()
        parts, path = self.config.source_configs, self.config.cache_path
        return tuple(open_source(part, path) for part in parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources, or of the task that makes up its own text."""
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
        """The value of `make`, which is called once for each key."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def packed(self, source: Source, split: Split) -> PackedCorpus:
        """The documents of a split as bytes; UserError for no text, a full disk, a bad source."""
        return self.kept(
            ("packed", source, split),
            lambda: packed_corpus(source, split, self.config.cache_path, self._processes),
        )

    def corpus(self, source: Source, split: Split) -> Corpus:
        """The documents of a split as the task reads them: with scripts and boundaries, or tokens.

        Raises:
            UserError: as `packed`, and for a document whose script is not in `data.scripts`.
        """
        return self.kept(("corpus", source, split), lambda: self._corpus(source, split))

    def shards(self, source: Source) -> list[InputShard]:
        """The shards of the stored train split, in order."""
        return self.kept(("shards", source), lambda: source.reader.shards("train"))

    def windows(self, source: Source) -> list[list[InputShard]]:
        """Those that are shuffled together, in order."""
        count, shards = self.config.task.shards_together, self.shards(source)
        assert count is not None
        return [shards[begin : begin + count] for begin in range(0, len(shards), count)]

    def packed_window(self, source: Source, split: Split, index: int) -> PackedCorpus:
        """The documents of one of the `windows` that belong to a split, as `packed`; not kept."""
        some = self.windows(source)[index]
        return packed_corpus(source, split, self.config.cache_path, self._processes, some)

    def window(self, source: Source, split: Split, index: int) -> Corpus:
        """The same, as `corpus`."""
        return self._as_read(self.packed_window(source, split, index), split)

    def _corpus(self, source: Source, split: Split) -> Corpus:
        return self._as_read(self.packed(source, split), split)

    def _as_read(self, packed: PackedCorpus, split: Split) -> Corpus:
        packed = packed.with_scripts(self.config.scripts)
        if self.unigram is not None:
            packed = with_pieces(packed, self.unigram, self.config.cache_path)
        if self.tokenizer is not None:
            return token_corpus(packed, self.tokenizer, self.config.cache_path)
        if self._entropies is not None and split == "train":
            return with_entropies(
                packed, self._entropies, self.sequence_length, self.config.cache_path
            )
        return packed

    def training_rows(self, seed: int) -> list[RowSource]:
        """The training rows of each source; `seed` decides what is random in them."""
        return self.config.task.rows_of_sources(self, "train", seed)

    def join_fingerprints(self, fingerprints: Sequence[str]) -> str:
        """The fingerprint of a run's text and models, from those of its sources."""
        models = (self.unigram, self.tokenizer)
        return "-".join([*fingerprints, *(model.digest for model in models if model)])


class Documents:
    """The documents of a split of every source, in order; UserError for a bad source."""

    def __init__(self, data: OpenData, split: Split) -> None:
        self._corpora = [data.packed(source, split) for source in data.sources]

    @property
    def raw_bytes(self) -> int:
        return sum(corpus.num_bytes for corpus in self._corpora)

    def __iter__(self) -> Iterator[bytes]:
        for corpus in self._corpora:
            yield from corpus.documents()


def training_text(data: OpenData, max_bytes: int) -> Iterator[bytes]:
    """Documents of train in a fixed random order, for tokenizers; UserError for a bad source.

    Args:
        data: the text.
        max_bytes: most bytes of all sources together. Each gives at most its share, by its weight
            in the mixture; its last document is cut.
    """
    for index, source in enumerate(data.sources):
        left = int(max_bytes * data.weights[index] / sum(data.weights))
        for text in _shuffled(source, data, source_seed(0, index)):
            yield text[:left]
            left -= len(text)
            if left <= 0:
                break


def _shuffled(source: Source, data: OpenData, seed: int) -> Iterator[bytes]:
    """The texts of the train split in random order; a streamed source is not packed."""
    texts = None
    if data.config.task.streamed:
        texts = source.reader.random_access(source.stored_split("train"))
    if texts is None:
        corpus = data.packed(source, "train")
        order = EndlessShuffle(0, corpus.num_documents, seed)
        yield from (corpus.document(order[place]) for place in range(corpus.num_documents))
        return
    order = EndlessShuffle(0, len(texts), seed)
    for place in range(len(texts)):
        part = source.placement.part_in("train", texts[order[place]])
        if part is not None:
            yield part
