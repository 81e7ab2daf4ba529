"""The cost of the same sentences in each language, in bits, patches and FLOPs.

Bits per byte and per character are hard to compare between languages, because scripts need more or
fewer bytes and characters for the same content. So parallel text is compared by the sentence: the
premium of a language is its bits over those of a reference language, for the same sentences.
Premiums of patches, FLOPs and bytes are defined in the same way, like those of tokens in Petrov et
al. 2023 ("Language Model Tokenizers Introduce Unfairness Between Languages").

Each sentence is scored as a document, so no translation has more context than another.
Bits are those of its bytes; END, which says that no other sentence follows, is not counted.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.chart import Chart
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import ratio
from bytelm.core.terminal_text import number_of
from bytelm.data.sources.json_objects import json_objects
from bytelm.data.sources.local_files import find_files
from bytelm.evaluation.flops import reading_flops
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, own_text


@dataclass(frozen=True)
class Languages(Evaluation):
    """Bits, patches, FLOPs and bytes per sentence in each language of parallel text."""

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
        details = {"languages": list(parallel), "sentences": sentences}
        chart = _chart(figures, list(parallel), self.reference)
        documents = (text.encode() for *_, text in _documents(self.files))
        text_of_files = own_text(loaded, documents, " ".join(self.files))
        return Result(figures, details=details, charts=(chart,), text=text_of_files)

    def compare(
        self, loaded: LoadedModel, parallel: Mapping[str, Sequence[bytes]], scoring: Scoring
    ) -> tuple[Figure, ...]:
        """Scores parallel sentences, each as a document, and compares languages by the sentence.

        The figures of each language are named `language/CODE/` and: `bits_per_sentence`; its
        `premium` over the reference language, with an interval for sentences drawn together with
        their translations; `patches_per_sentence` and `patches_premium`; `bytes_per_sentence` and
        `bytes_premium`; `flops_per_sentence`, forward FLOPs for these patches, and `flops_premium`;
        `bytes_per_patch`; `bytes_per_character` and `bytes_per_character_premium`;
        `bits_per_character`; `bpb`. Patches are tokens in a subword model, and bytes in a flat byte
        model; characters are Unicode code points.

        Args:
            loaded: the model.
            parallel: by language, sentences that are not empty, such as from `read_parallel`.
            scoring: all bytes are read.

        Raises:
            UserError: for no reference, or languages that differ in their number of sentences.
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


class _Counts(NamedTuple):
    """Counts of each sentence in one language, float64 `[sentences]`."""

    bits: np.ndarray
    patches: np.ndarray
    flops: np.ndarray
    bytes: np.ndarray
    characters: np.ndarray


def _count(loaded: LoadedModel, sentences: Sequence[bytes], scoring: Scoring) -> _Counts:
    stride, batch_size = scoring.stride, scoring.batch_size
    lengths = np.array(list(map(len, sentences)), np.float64)
    if loaded.has_patches:
        cut = loaded.segment_all(sentences, stride=stride, batch_size=batch_size)
        bits = np.array([found.nats.sum() / math.log(2) for found in cut])
        patches = np.array([len(found.lengths) for found in cut], np.float64)
        vectors = [int(found.levels[0].boundaries.sum()) for found in cut]
        flops = [
            reading_flops(loaded, len(text) + 1, count)
            for text, count in zip(sentences, vectors, strict=True)
        ]
    else:
        scores = loaded.score_documents(sentences, stride=stride, batch_size=batch_size)
        bits, patches = scores.bits(), scores.symbols.astype(np.float64)
        flops = [reading_flops(loaded, symbols + 1, None) for symbols in scores.symbols.tolist()]
    characters = [len(text.decode(errors="surrogateescape")) for text in sentences]
    return _Counts(bits, patches, np.array(flops), lengths, np.array(characters, np.float64))


def _figures(found: _Counts, reference: _Counts) -> list[Figure]:
    ours, theirs = (_Counts(*(each.sum() for each in counts)) for counts in (found, reference))
    density = ours.bytes / ours.characters
    return [
        Figure("bits_per_sentence", float(found.bits.mean())),
        ratio("premium", found.bits, reference.bits),
        Figure("patches_per_sentence", float(found.patches.mean())),
        ratio("patches_premium", found.patches, reference.patches),
        Figure("flops_per_sentence", float(found.flops.mean()), "FLOP"),
        ratio("flops_premium", found.flops, reference.flops),
        Figure("bytes_per_sentence", float(found.bytes.mean())),
        ratio("bytes_premium", found.bytes, reference.bytes),
        ratio("bytes_per_patch", found.bytes, found.patches, "B/patch"),
        Figure("bytes_per_character", float(density)),
        Figure("bytes_per_character_premium", float(density / (theirs.bytes / theirs.characters))),
        Figure("bits_per_character", float(ours.bits / ours.characters)),
        Figure("bpb", float(ours.bits / ours.bytes), "bpb"),
    ]


def _chart(figures: Sequence[Figure], languages: Sequence[str], reference: str) -> Chart:
    """The premiums of each language, in bars."""
    values = {figure.name: figure.value for figure in figures}
    kinds = {"bits": "premium"} | {n: f"{n}_premium" for n in ("patches", "flops", "bytes")}
    bars = {
        kind: {language: values[f"language/{language}/{name}"] for language in languages}
        for kind, name in kinds.items()
    }
    return Chart.histogram("Premiums of languages", "language", f"relative to {reference}", bars)


def read_parallel(files: Sequence[str]) -> dict[str, list[bytes]]:
    """Sentences in several languages, from JSON lines with the keys `id`, `lang` and `text`.

    Documents with the same id are translations of each other, line by line; they may be in
    different files. The files are globs of .jsonl files, compressed or not.

    Returns:
        by language code, the sentences, in the same order in all languages.

    Raises:
        UserError: for files that cannot be read, and for languages that are not aligned.
    """
    documents: dict[str, dict[str, list[bytes]]] = {}
    for name, language, text in _documents(files):
        translations = documents.setdefault(language, {})
        if name in translations:
            raise UserError(f"document {name} appears twice in {language}; take one out.")
        translations[name] = text.encode().removesuffix(b"\n").split(b"\n")
    if not documents:
        raise UserError(f"{' '.join(files)}: the files hold no document.")
    return _aligned(documents)


def _documents(files: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The id, the language and the text of each document of all files."""
    for path in find_files(files, "the parallel text"):
        for line in json_objects(path):
            yield tuple(map(line.text, ("id", "lang", "text")))


def _aligned(documents: Mapping[str, Mapping[str, Sequence[bytes]]]) -> dict[str, list[bytes]]:
    """The lines of each language's documents, in the order of the first language's."""
    first, expected = next(iter(documents.items()))
    for language, found in documents.items():
        for name in sorted(expected.keys() ^ found.keys()):
            there, missing = (first, language) if name in expected else (language, first)
            raise UserError(
                f"document {name} exists in {there} and not in {missing}; parallel text needs "
                "each document in every language."
            )
        for name, lines in found.items():
            if len(lines) != len(expected[name]):
                raise UserError(
                    f"document {name} has {number_of(len(lines), 'line')} in {language} and "
                    f"{len(expected[name])} in {first}; each line must be translated by one line."
                )
            if b"" in lines:
                raise UserError(
                    f"document {name} in {language}, line {lines.index(b'') + 1} is empty; give "
                    "the sentence that the other languages have there."
                )
    return {
        language: [line for name in expected for line in found[name]]
        for language, found in documents.items()
    }
