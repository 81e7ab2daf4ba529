"""Documents of a text as a model reads them, and figures that are sums over documents."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import ratio
from bytelm.data.progress import shown_progress
from bytelm.evaluation.report import Items
from bytelm.evaluation.suite import Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes
from bytelm.inference.by_document import Document, by_document
from bytelm.inference.scoring import window_batches
from bytelm.models.contract import ModelOutput

Part = TypeVar("Part")


class Reading(NamedTuple):
    """A document that was read.

    Attributes:
        document: with the function's values.
        cut: whether `max_bytes` cut it, so that the value of its END does not count.
    """

    document: Document
    cut: bool


def read_documents(
    loaded: LoadedModel,
    text: EvaluationText,
    scoring: Scoring,
    function: Callable[[ModelOutput, jax.Array], Any],
    *,
    what: str = "scoring",
) -> Iterator[Reading]:
    """Reads the documents of a text that hold bytes, a few batches at a time, about in order.

    Args:
        function: as for `Scorer.run`; it returns a tree of arrays `[B, T, ...]`.
        what: the work, for the display of progress.

    Raises:
        UserError: if the documents hold no byte, or an option is out of range.
    """
    first = FirstBytes(text.documents(), scoring.max_bytes)
    run = functools.partial(loaded.scorer.run, function)
    batches = window_batches(
        first, loaded.context, scoring.stride, scoring.batch_size, loaded.tokenizer
    )
    empty = True
    with shown_progress(what, text.size(scoring.max_bytes)) as done:
        for document in by_document(run, batches):
            if document.bytes:
                yield Reading(document, first.cut and document.number == first.given - 1)
                done(document.bytes)
                empty = False
    if empty:
        raise UserError("the documents hold no bytes; choose a source or split that has text.")


def byte_lengths(loaded: LoadedModel, symbols: np.ndarray) -> np.ndarray:
    """The bytes of each symbol, int64 `[N]`: 1, or those of a token."""
    if loaded.tokenizer is None:
        return np.ones(len(symbols), np.int64)
    return loaded.tokenizer.byte_counts[symbols].astype(np.int64)


def in_order(parts: Mapping[int, Part]) -> list[Part]:
    """The parts of all documents, by number, in the order of the documents."""
    return [parts[number] for number in sorted(parts)]


class Ratios:
    """Figures that are ratios of sums over documents, for a `Result`.

    Attributes:
        figures: in the order of `add`.
        items: the parts of each, so that models are compared document by document.
    """

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.items: dict[str, Items] = {}

    def add(
        self,
        name: str,
        sums: ArrayLike,
        counts: ArrayLike,
        unit: str = "",
        *,
        empty: float | None = None,
        bound: bool = False,
    ) -> Figure:
        """Adds a figure, and returns it.

        Arguments as for `bytelm.core.intervals.ratio` and `Figure`.
        """
        figure = ratio(name, sums, counts, unit, empty=empty)
        self.figures.append(dataclasses.replace(figure, bound=bound))
        self.items[name] = Items(np.asarray(sums, np.float64), np.asarray(counts, np.float64))
        return self.figures[-1]
