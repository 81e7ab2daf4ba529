"""The cost of the same sentences in each language, in bits and in patches.

Bits per byte and per character are hard to compare between languages, because scripts need more or
fewer bytes and characters for the same content. So parallel text is compared by the sentence: the
premium of a language is its bits over those of a reference language, for the same sentences.
Premiums of patches and of bytes are defined in the same way, like those of tokens in Petrov et al.
2023 ("Language Model Tokenizers Introduce Unfairness Between Languages").

Each sentence is scored as a document of its own, so no translation has more context than another.
Bits are those of its bytes; END, which says that no other sentence follows, is not counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import ratio
from bytelm.evaluation.parallel_text import read_parallel
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText


@dataclass(frozen=True)
class Languages(Evaluation):
    """Bits, patches and bytes per sentence in each language of parallel text."""

    name: ClassVar[str] = "languages"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)
    reads_text: ClassVar[bool] = False

    files: tuple[str, ...] = ()
    """Globs of JSON lines with the keys id, lang and text: the parallel text."""
    reference: str = "eng"
    """The language that the others are compared with."""
    max_sentences: int | None = None
    """Score only the first sentences of each language; none = all."""

    def __post_init__(self) -> None:
        self.require_positive("max_sentences")

    def check(self, loaded: LoadedModel) -> None:
        super().check(loaded)
        if not self.files:
            raise UserError(
                "the evaluation languages needs parallel text; name its files with languages.files."
            )

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """`compare`s the languages of the parallel text alone."""
        parallel = read_parallel(self.files)
        figures = self.compare(loaded, parallel, scoring)
        sentences = len(parallel[self.reference][: self.max_sentences])
        return Result(figures, details={"languages": list(parallel), "sentences": sentences})

    def compare(
        self, loaded: LoadedModel, parallel: Mapping[str, Sequence[bytes]], scoring: Scoring
    ) -> tuple[Figure, ...]:
        """Scores parallel sentences, each as a document, and compares languages by the sentence.

        The figures of each language are named `language/CODE/` and: `bits_per_sentence`; its
        `premium` over the reference language, with an interval for sentences drawn together with
        their translations; `patches_per_sentence` and `patches_premium`; `bytes_per_sentence` and
        `bytes_premium`; `bytes_per_character` and `bytes_per_character_premium`;
        `bits_per_character`; `bpb`. Patches are tokens in a subword model, and bytes in a flat byte
        model; characters are Unicode code points.

        Args:
            loaded: the model.
            parallel: by language, sentences that are not empty, such as from `read_parallel`.
            scoring: how; all bytes are read.

        Raises:
            UserError: if the reference is missing, or languages differ in their number of
                sentences.
        """
        if self.reference not in parallel:
            raise UserError(
                f"there is no {self.reference} in the parallel text to compare with; choose the "
                f"reference from {', '.join(parallel)}, or add its sentences."
            )
        count = len(parallel[self.reference])
        for language, sentences in parallel.items():
            if not len(sentences) == count > 0:
                raise UserError(
                    f"there are {len(sentences)} sentences in {language} and {count} in "
                    f"{self.reference}; give the same number in each language, and at least one."
                )
        counts = {
            language: _count(loaded, sentences[: self.max_sentences], scoring)
            for language, sentences in parallel.items()
        }
        return tuple(
            figure.renamed(f"language/{language}/{figure.name}")
            for language, found in counts.items()
            for figure in _figures(found, counts[self.reference])
        )


@dataclass(frozen=True)
class _Counts:
    """Counts of each sentence in one language, float64 `[sentences]`."""

    bits: np.ndarray
    patches: np.ndarray
    bytes: np.ndarray
    characters: np.ndarray


def _count(loaded: LoadedModel, sentences: Sequence[bytes], scoring: Scoring) -> _Counts:
    stride, batch_size = scoring.stride, scoring.batch_size
    if loaded.has_patches:
        cut = loaded.segment_all(sentences, stride=stride, batch_size=batch_size)
        bits = np.array([found.nats.sum() / math.log(2) for found in cut])
        patches = np.array([len(found.lengths) for found in cut], np.float64)
    else:
        scores = loaded.score_documents(sentences, stride=stride, batch_size=batch_size)
        bits, patches = scores.bits(), scores.symbols.astype(np.float64)
    lengths = np.array([len(text) for text in sentences], np.float64)
    characters = [len(text.decode(errors="surrogateescape")) for text in sentences]
    return _Counts(bits, patches, lengths, np.array(characters, np.float64))


def _figures(found: _Counts, reference: _Counts) -> list[Figure]:
    def over(numerators: np.ndarray, denominators: np.ndarray) -> float:
        return float(np.divide(numerators.sum(), denominators.sum()))

    bytes_per_character = over(found.bytes, found.characters)
    reference_per_character = over(reference.bytes, reference.characters)
    return [
        Figure("bits_per_sentence", float(found.bits.mean())),
        ratio("premium", found.bits, reference.bits),
        Figure("patches_per_sentence", float(found.patches.mean())),
        Figure("patches_premium", over(found.patches, reference.patches)),
        Figure("bytes_per_sentence", float(found.bytes.mean())),
        Figure("bytes_premium", over(found.bytes, reference.bytes)),
        Figure("bytes_per_character", bytes_per_character),
        Figure("bytes_per_character_premium", bytes_per_character / reference_per_character),
        Figure("bits_per_character", over(found.bits, found.characters)),
        Figure("bpb", over(found.bits, found.bytes), "bpb"),
    ]
