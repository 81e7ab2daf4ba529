"""Bits per byte of whole documents, and over all tokenisations of a subword model."""

import lzma
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import brotli

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import LEAST_DOCUMENTS, ratio
from bytelm.core.terminal_text import number_of
from bytelm.data.progress import counted, shown_progress
from bytelm.data.sources.file_formats import zstd
from bytelm.evaluation.report import DocumentBits, Result
from bytelm.evaluation.suite import DECODER, TOKENS, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText, FirstBytes

CANONICAL = "\u2264: an upper bound, of the canonical tokens alone; marginal counts all"
"""Says why a subword model's bits per byte are a bound."""


@dataclass(frozen=True)
class Bits(Evaluation):
    """Exact bits per byte of whole documents, next to gzip, xz, zstd and brotli on them."""

    name: ClassVar[str] = "bits"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)
    choosing: ClassVar[tuple[str, ...]] = ("compressors",)

    compressors: bool = True
    """Whether to compress the documents with `gzip -9`, `xz -9e`, `zstd -19` and `brotli` too."""

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `bpb`, `bpb_with_end`, `gzip_bpb` and so on; `bytes_per_token` of tokens."""
        first = FirstBytes(text.documents(), scoring.max_bytes)
        size = text.size(scoring.max_bytes)
        started = time.perf_counter()
        with shown_progress("scoring", size) as done:
            scores = loaded.score_documents(
                first, stride=scoring.stride, batch_size=scoring.batch_size, done=done
            )
        seconds = time.perf_counter() - started
        scores = scores.without_last_end() if first.cut else scores
        subword = loaded.tokenizer is not None
        details: dict[str, Any] = {
            "documents": len(scores.bytes),
            "bytes": int(scores.bytes.sum()),
            "symbols": int(scores.symbols.sum()),
            "last_document_cut": first.cut,
            "bytes_per_second": int(scores.bytes.sum()) / seconds,
        }
        stride = loaded.default_stride if scoring.stride is None else scoring.stride
        cut = ", the last one cut" if first.cut else ""
        notes = [
            f"{number_of(details['documents'], 'document')}{cut}, "
            f"{number_of(details['bytes'], 'byte')}; context {loaded.context}, stride {stride}; "
            f"{details['bytes_per_second']:,.0f} bytes/s"
        ]
        figures = [
            scores.bpb(bound=subword),
            scores.bpb("bpb_with_end", with_end=True, bound=subword),
        ]
        if subword:
            figures.append(ratio("bytes_per_token", scores.bytes, scores.symbols, "B/token"))
            notes.append(CANONICAL)
        if figures[0].interval is None:
            notes.append(f"an interval needs {LEAST_DOCUMENTS} documents that are not empty")
        if self.compressors:
            with shown_progress("compressing", size) as done:
                found = compressor_bpb(counted(first, done))
            figures += [Figure(f"{name}_bpb", bpb, "bpb") for name, bpb in found.items()]
        documents = DocumentBits(scores.bits(), scores.bytes)
        return Result(tuple(figures), tuple(notes), details, documents)


@dataclass(frozen=True)
class Marginal(Evaluation):
    """Bits per byte of a subword model, summed over all tokenisations of the text."""

    name: ClassVar[str] = "marginal"
    needs: ClassVar[tuple[Need, ...]] = (TOKENS,)

    covers: int | None = 32
    """Token histories kept at each byte; more are slower, and lose less."""

    def __post_init__(self) -> None:
        self.require_positive("covers")

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `marginal_bpb`, `..._with_end`, and `canonical_bpb` with the same context."""
        first = FirstBytes(text.documents(), scoring.max_bytes)
        with shown_progress("scoring all tokenisations", text.size(scoring.max_bytes)) as done:
            scores = loaded.byte_marginal(self.covers).score(counted(first, done))
        marginal, canonical = scores.marginal, scores.canonical
        if first.cut:
            marginal, canonical = marginal.without_last_end(), canonical.without_last_end()
        size, dropped = int(marginal.bytes.sum()), int(scores.dropped.sum())
        figures = (
            marginal.bpb("marginal_bpb"),
            marginal.bpb("marginal_bpb_with_end", with_end=True),
            canonical.bpb("canonical_bpb", bound=True),
            Figure("dropped_bpb", float(scores.dropped_bits.sum() / size), "bpb"),
            Figure("tokens_read_per_byte", float(scores.tokens_read.sum() / size)),
        )
        histories = number_of(dropped, "token history", "token histories")
        return Result(
            figures,
            (f"of all tokenisations, {histories} were dropped",),
            {"dropped_histories": dropped},
            DocumentBits(marginal.bits(), marginal.bytes),
        )


def compressor_bpb(documents: Iterable[bytes]) -> dict[str, float]:
    """Bits per raw byte of the documents, compressed as one by each of `_compressors`.

    The containers count. The documents are read once; the compressors keep only their windows in
    memory (under 1 GB). xz and brotli take a second or two per megabyte.

    Raises:
        UserError: if the documents hold no bytes.
    """
    compressors, raw_bytes = _compressors(), 0
    sizes = dict.fromkeys(compressors, 0)
    for document in documents:
        raw_bytes += len(document)
        for name, (compress, _) in compressors.items():
            sizes[name] += len(compress(document))
    if not raw_bytes:
        raise UserError(
            "the documents to compress hold no bytes; choose a source or split that has text"
        )
    for name, (_, flush) in compressors.items():
        sizes[name] += len(flush())
    return {name: 8 * size / raw_bytes for name, size in sizes.items()}


def _compressors() -> dict[str, tuple[Callable[[bytes], bytes], Callable[[], bytes]]]:
    """What compresses more text, and what ends it: `gzip -9`, `xz -9e`, `zstd -19`, `brotli`."""
    gzip = zlib.compressobj(9, wbits=31)  # the widest window, in a gzip container
    xz = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    zstandard = zstd.ZstdCompressor(level=19)
    brotli_ = brotli.Compressor(quality=11, lgwin=24)
    return {
        "gzip": (gzip.compress, gzip.flush),
        "xz": (xz.compress, xz.flush),
        "zstd": (zstandard.compress, zstandard.flush),
        "brotli": (brotli_.process, brotli_.finish),
    }
