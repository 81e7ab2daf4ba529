"""What the same sentences cost a model in each language, in bits and in patches.

Bits per byte and per character say little between languages, whose scripts need more or fewer of
both for the same content. So parallel text is compared by the sentence: a language's premium is
its bits over those of a reference language, sums over the same sentences. Premiums of patches and
of bytes are built alike, as those of tokens are in Petrov et al. 2023 ("Language Model Tokenizers
Introduce Unfairness Between Languages").

Each sentence is scored as a document of its own, so that no translation has more context than
another. Bits are those of its bytes; END, which says that no other sentence follows, is left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.intervals import bootstrap_interval
from bytelm.data.config import SourceConfig
from bytelm.data.sources.files import FilesReader
from bytelm.models.hierarchy import HierarchyConfig

if TYPE_CHECKING:
    from bytelm.api import LoadedModel


def read_parallel(files: str | Sequence[str]) -> dict[str, list[bytes]]:
    """Sentences in several languages, from JSON lines with the keys `id`, `lang` and `text`.

    Documents of one id are translations of each other, and so are their lines of one number.

    Args:
        files: globs of .jsonl files, compressed or not; one may be given alone. A document and its
            translations may lie in different files.

    Returns:
        for each language's code its sentences, in one order, so that those of one number say the
        same.

    Raises:
        UserError: for files that cannot be read, and for languages that are not aligned.
    """
    files = [files] if isinstance(files, str) else files
    if not files:
        raise UserError("there are no files of parallel text; name one at least.")
    # A document of the reader has two strings beside its text: here the language and the id.
    source = SourceConfig(files=tuple(files), script_key="lang", target_key="id")
    documents: dict[str, dict[str, list[bytes]]] = {}
    for text, language, identity in FilesReader(source).documents("train"):
        assert language is not None and identity is not None
        translations = documents.setdefault(language, {})
        name = identity.decode()
        if name in translations:
            raise UserError(f"document {name} is there twice in {language}; take one out.")
        translations[name] = text.removesuffix(b"\n").split(b"\n")
    if not documents:
        raise UserError(f"{' '.join(files)}: there is no document in the files.")
    return _aligned(documents)


def _aligned(documents: Mapping[str, Mapping[str, Sequence[bytes]]]) -> dict[str, list[bytes]]:
    """The lines of each language's documents, in the order of the first language's."""
    first, expected = next(iter(documents.items()))
    for language, found in documents.items():
        for name in sorted(expected.keys() ^ found.keys()):
            there, missing = (first, language) if name in expected else (language, first)
            raise UserError(
                f"document {name} is there in {there} and not in {missing}; parallel text needs "
                "each document in every language."
            )
        for name, lines in found.items():
            if len(lines) != len(expected[name]):
                raise UserError(
                    f"document {name} has {len(lines)} lines in {language} and "
                    f"{len(expected[name])} in {first}; line by line they must say the same."
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


@dataclass(frozen=True)
class _Measures:
    """Of one language: float64 `[sentences]` each."""

    bits: np.ndarray
    patches: np.ndarray
    bytes: np.ndarray
    characters: np.ndarray


def languages(
    loaded: "LoadedModel",
    parallel: Mapping[str, Sequence[bytes]],
    *,
    reference: str = "eng",
    max_sentences: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> dict[str, float]:
    """Scores parallel sentences, each as a document, and compares languages by the sentence.

    The figures of each language are named `language/CODE/` and: `bits_per_sentence`, its `premium`
    over the reference language, and the ends of that one's 95% interval, `premium_low` and
    `premium_high`, for sentences drawn again together with their translations (left out where
    there are too few sentences for an interval);
    `patches_per_sentence` and `patches_premium`; `bytes_per_sentence` and `bytes_premium`;
    `bytes_per_character` and `bytes_per_character_premium`; `bits_per_character`; `bpb`. Patches
    are those of a family that has them, the tokens of a subword model, and the bytes of a flat
    byte model; characters are Unicode code points.

    Args:
        loaded: the model.
        parallel: for each language its sentences, none empty, as `read_parallel` gives them.
        reference: the language that the others are compared with.
        max_sentences: how many sentences are scored in each language, the first ones; None for
            all.
        stride: bytes scored by each window after a sentence's first; None for half the context.
        batch_size: windows scored at a time.

    Returns:
        figures by name.

    Raises:
        UserError: if the reference is missing, or the languages have not as many sentences each.
    """
    if reference not in parallel:
        raise UserError(
            f"there is no {reference} in the parallel text to compare with; choose the reference "
            f"from {', '.join(parallel)}, or add its sentences."
        )
    for language, sentences in parallel.items():
        if not len(sentences) == len(parallel[reference]) > 0:
            raise UserError(
                f"there are {len(sentences)} sentences in {language} and "
                f"{len(parallel[reference])} in {reference}; give as many translations of each, "
                "and one at least."
            )
    measures = {
        language: _measure(loaded, sentences[:max_sentences], stride, batch_size)
        for language, sentences in parallel.items()
    }
    return {
        f"language/{language}/{name}": value
        for language, found in measures.items()
        for name, value in _figures(found, measures[reference]).items()
    }


def _measure(
    loaded: "LoadedModel", sentences: Sequence[bytes], stride: int | None, batch_size: int
) -> _Measures:
    lengths = np.array([len(text) for text in sentences], np.float64)
    characters = [len(text.decode(errors="surrogateescape")) for text in sentences]
    if isinstance(loaded.config.model, HierarchyConfig):
        cut = loaded.segment_all(sentences, stride=stride, batch_size=batch_size)
        bits = np.array([found.nats.sum() / math.log(2) for found in cut])
        patches = np.array([len(found.lengths) for found in cut], np.float64)
    else:
        scores = loaded.score_documents(sentences, stride=stride, batch_size=batch_size)
        bits, patches = scores.bits(), scores.symbols.astype(np.float64)
    return _Measures(bits, patches, lengths, np.array(characters, np.float64))


def _figures(found: _Measures, reference: _Measures) -> dict[str, float]:
    def ratio(numerators: np.ndarray, denominators: np.ndarray) -> float:
        return float(np.divide(numerators.sum(), denominators.sum()))

    bytes_per_character = ratio(found.bytes, found.characters)
    interval = bootstrap_interval(found.bits, reference.bits)
    ends = {} if interval is None else {"premium_low": interval[0], "premium_high": interval[1]}
    return {
        "bits_per_sentence": float(found.bits.mean()),
        "premium": ratio(found.bits, reference.bits),
        **ends,
        "patches_per_sentence": float(found.patches.mean()),
        "patches_premium": ratio(found.patches, reference.patches),
        "bytes_per_sentence": float(found.bytes.mean()),
        "bytes_premium": ratio(found.bytes, reference.bytes),
        "bytes_per_character": bytes_per_character,
        "bytes_per_character_premium": bytes_per_character
        / ratio(reference.bytes, reference.characters),
        "bits_per_character": ratio(found.bits, found.characters),
        "bpb": ratio(found.bits, found.bytes),
    }
