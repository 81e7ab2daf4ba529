"""How much text a run has to train on."""

from dataclasses import dataclass

from bytelm.data.config import DIAGNOSTICS, DataConfig
from bytelm.data.corpus.cache import packed_corpus
from bytelm.data.rows import training_rows
from bytelm.data.sources.source import open_sources
from bytelm.data.tasks.pairs import PairRows


@dataclass(frozen=True)
class TextSize:
    """The training text of a run.

    Attributes:
        bytes: of all sources; None where nobody has counted (a stream), or there is no end.
        rows: of one pass over all sources; None as above.
        bytes_per_row: on average, by the weights of a mixture; of a stream at most.
        names: of the sources.
    """

    bytes: int | None
    rows: int | None
    bytes_per_row: float
    names: tuple[str, ...]


def text_size(config: DataConfig) -> TextSize:
    """The size of the train split, which is packed for it if it is not yet.

    Raises:
        UserError: for a bad source.
    """
    if config.task in DIAGNOSTICS:
        return TextSize(None, None, config.sequence_length - 1, (config.task,))
    sources = open_sources(config)
    names = tuple(source.name for source in sources)
    if config.read == "stream":
        return TextSize(None, None, config.sequence_length, names)
    rows, _ = training_rows(config, seed=0)
    sizes = [
        of_source.num_bytes
        if isinstance(of_source, PairRows)
        else packed_corpus(source, "train", config.cache_path).num_bytes
        for source, of_source in zip(sources, rows.sources, strict=True)
    ]
    weights = [each.weight for each in config.source_configs]
    per_row = [size / len(each) for size, each in zip(sizes, rows.sources, strict=True)]
    mean = sum(map(float.__mul__, weights, per_row)) / sum(weights)
    return TextSize(sum(sizes), len(rows), mean, names)
