"""Text of the train split in random order, for what is made before training."""

from collections.abc import Iterable, Iterator

from bytelm.data.config import DataConfig
from bytelm.data.corpus.cache import packed_corpus
from bytelm.data.order import EndlessShuffle, source_seed
from bytelm.data.sources.source import Source, open_sources
from bytelm.data.sources.tfds import TfdsReader


def training_text(config: DataConfig, max_bytes: int) -> Iterator[bytes]:
    """Documents of the train split in random order, always the same one.

    Where there is more text than `max_bytes`, each source gives as much as its weight in the
    mixture says, and its last document is cut.

    Args:
        config: the text.
        max_bytes: most bytes of all sources together.

    Raises:
        UserError: for a bad source.
    """
    total_weight = sum(source.weight for source in config.source_configs)
    for number, source in enumerate(open_sources(config)):
        share = max_bytes * config.source_configs[number].weight / total_weight
        yield from _first_bytes(_shuffled(source, config, source_seed(0, number)), int(share))


def _shuffled(source: Source, config: DataConfig, seed: int) -> Iterator[bytes]:
    """The texts of the train split in random order, read as training reads them."""
    if config.read == "stream" and isinstance(source.reader, TfdsReader):
        stored = source.reader.random_access(source.stored_split("train"))
        order = EndlessShuffle(0, len(stored), seed)
        texts = (stored[order[place]] for place in range(len(stored)))
        parts = (source.placement.part_in("train", text) for text in texts)
        return (part for part in parts if part is not None)
    corpus = packed_corpus(source, "train", config.cache_path)
    order = EndlessShuffle(0, corpus.num_documents, seed)
    return (corpus.document(order[place]) for place in range(corpus.num_documents))


def _first_bytes(texts: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The first texts, the last of them cut, that have `count` bytes together."""
    for text in texts:
        yield text[:count]
        count -= len(text)
        if count <= 0:
            return
