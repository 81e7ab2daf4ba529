"""Text of the train split in random order, to train tokenizers on."""

from collections.abc import Iterable, Iterator

from bytelm.data.open_data import OpenData
from bytelm.data.order import EndlessShuffle, source_seed
from bytelm.data.sources.source import Source


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
