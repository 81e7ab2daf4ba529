"""How much text a run has to train on."""

from dataclasses import dataclass

from bytelm.data.open_data import OpenData


@dataclass(frozen=True)
class TextSize:
    """The training text of a run.

    Attributes:
        bytes: of all sources; None if nobody has counted (a stream), or there is no end.
        rows: of one pass over all sources; None as above.
        bytes_per_row: on average, by the weights of a mixture; the most of a row where `bytes` is
            None.
        names: of the sources.
    """

    bytes: int | None
    rows: int | None
    bytes_per_row: float
    names: tuple[str, ...]


def text_size(data: OpenData) -> TextSize:
    """The size of the train split, which is packed first if needed.

    Raises:
        UserError: for a bad source.
    """
    task, length = data.config.task, data.config.sequence_length
    if task.streamed:
        return TextSize(None, None, length, data.names)
    if task.makes_text:
        return TextSize(None, None, length - 1, data.names)  # each row has an END
    rows = data.training_rows(seed=0)
    sizes = [each.num_bytes or 0 for each in rows]
    per_row = [size / len(each) for size, each in zip(sizes, rows, strict=True)]
    mean = sum(map(float.__mul__, data.weights, per_row)) / sum(data.weights)
    return TextSize(sum(sizes), sum(map(len, rows)), mean, data.names)
