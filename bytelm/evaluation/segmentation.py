"""The patches that a model cuts documents into."""

import functools
import operator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import ratio
from bytelm.core.terminal_text import number_of
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import PATCHES, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes
from bytelm.inference.segmentation import length_histogram


@dataclass(frozen=True)
class PatchStatistics(Evaluation):
    """Lengths of patches, and how well their starts agree with those of words."""

    name: ClassVar[str] = "segmentation"
    needs: ClassVar[tuple[Need, ...]] = (PATCHES,)

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `bytes_per_patch`, and `word_start/...` and `whitespace_start/...`: precision,
        recall and F1 of patch starts.
        """
        documents = list(filter(None, FirstBytes(text.documents(), scoring.max_bytes)))
        if not documents:
            raise UserError("the documents hold no bytes; choose a source or split that has text.")
        cut = loaded.segment_all(documents, stride=scoring.stride, batch_size=scoring.batch_size)
        sizes = np.array([len(found.text) for found in cut])
        counts = np.array([len(found.lengths) for found in cut])
        figures = [ratio("bytes_per_patch", sizes, counts, "B/patch")]
        words = functools.reduce(operator.add, [found.word_agreement for found in cut])
        spaces = functools.reduce(operator.add, [found.space_agreement for found in cut])
        figures += [
            Figure(f"{name}/{measure}", getattr(agreement, measure), "share")
            for name, agreement in (("word_start", words), ("whitespace_start", spaces))
            for measure in ("precision", "recall", "f1")
        ]
        lengths = np.concatenate([found.lengths for found in cut])
        return Result(
            tuple(figures),
            (number_of(len(lengths), "patch", "patches"),),
            {"patches": len(lengths), "patches_by_length": length_histogram(lengths)},
        )
