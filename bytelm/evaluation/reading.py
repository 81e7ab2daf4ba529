"""Documents of a text as a model reads them, for evaluations of single symbols."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.data.progress import shown_progress
from bytelm.evaluation.suite import Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes
from bytelm.inference.by_document import Document, by_document
from bytelm.inference.scoring import window_batches
from bytelm.models.contract import ModelOutput


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
    """Reads the documents of a text that hold bytes, a few batches at a time.

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
