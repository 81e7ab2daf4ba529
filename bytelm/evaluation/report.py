"""The evaluation of a model on documents: bits per byte beside general-purpose compressors."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bytelm.core.console import TerminalConsole
from bytelm.core.intervals import LEAST_DOCUMENTS, interval_words
from bytelm.data.corpus.documents import Documents
from bytelm.evaluation.compressors import compressor_bpb
from bytelm.evaluation.first_bytes import FirstBytes
from bytelm.evaluation.progress import counted, shown_progress
from bytelm.evaluation.seen import EvaluationText, describe_text
from bytelm.training.hardware import describe_machine

UPPER_BOUND = "of the canonical tokens alone, an upper bound (--byte-marginal counts all)"
"""What is said of a subword model's bits per byte."""

if TYPE_CHECKING:
    from bytelm.api import LoadedModel


def evaluate(
    loaded: "LoadedModel",
    documents: Iterable[bytes] | EvaluationText,
    *,
    stride: int | None = None,
    batch_size: int = 8,
    max_bytes: int | None = None,
    compressors: bool = True,
    covers: int | None = None,
) -> dict[str, Any]:
    """Scores whole documents with a sliding context, and says what gzip and xz make of them.

    Args:
        loaded: the model.
        documents: read twice where there are compressors to run; those of an iterator, which can
            be read only once, are then held in memory. Of a run's `EvaluationText` the report says
            how much was trained on.
        stride: bytes scored by each window after a document's first; None for half the context.
        batch_size: windows scored at a time.
        max_bytes: only so many bytes are scored. The last document is cut, and then its END, which
            is not there, does not count; None for all.
        compressors: whether to compress the documents too.
        covers: of a subword model, token histories that are kept to add up the probabilities of all
            tokenisations (`LoadedModel.byte_marginal`); None for the canonical one alone.

    Returns:
        figures under names that say their units, ready for JSON.

    Raises:
        UserError: if the documents hold no byte.
    """
    text = documents if isinstance(documents, EvaluationText) else None
    if isinstance(documents, EvaluationText):
        documents = documents.documents()
    if (compressors or covers) and isinstance(documents, Iterator):
        # One byte more than is scored tells whether the last document is cut.
        documents = list(FirstBytes(documents, None if max_bytes is None else max_bytes + 1))
    first = FirstBytes(documents, max_bytes)
    stride = loaded.default_stride if stride is None else stride
    started = time.perf_counter()
    total = _size(documents, max_bytes)
    with shown_progress("scoring", total) as done:
        scores = loaded.score_documents(first, stride=stride, batch_size=batch_size, done=done)
    if first.cut:
        scores = scores.without_last_end()
    seconds = time.perf_counter() - started
    raw_bytes = int(scores.bytes.sum())
    report: dict[str, Any] = {
        "step": loaded.step,
        "bits_per_byte": scores.bits_per_byte(),
        "bits_per_byte_interval": scores.interval(),
        "bits_per_byte_with_end": scores.bits_per_byte(with_end=True),
        "bits_per_byte_with_end_interval": scores.interval(with_end=True),
        "documents": len(scores.bytes),
        "bytes": raw_bytes,
        "max_bytes": max_bytes,
        "last_document_cut": first.cut,
        "bytes_per_symbol": raw_bytes / int(scores.symbols.sum()),
        "context": loaded.context,
        "stride": stride,
        "seconds": seconds,
        "bytes_per_second": raw_bytes / seconds,
        "machine": describe_machine(),
    }
    if text is not None:
        report["text"] = text.report(max_bytes)
    if loaded.tokenizer is not None:
        report["upper_bound"] = UPPER_BOUND
    if covers is not None:
        with shown_progress("scoring all tokenisations", total) as done:
            report |= _marginal(loaded, first, covers, done)
    if compressors:
        with shown_progress("compressing", total) as done:
            found = compressor_bpb(counted(first, done))
        report |= {f"{name}_bits_per_byte": bpb for name, bpb in found.items()}
    return report


def _size(documents: Iterable[bytes], max_bytes: int | None) -> int | None:
    """How many bytes will be scored; None if that is not known before."""
    if isinstance(documents, Documents):
        size = documents.raw_bytes
    elif isinstance(documents, Sequence):
        size = sum(map(len, documents))
    else:
        return max_bytes
    return size if max_bytes is None else min(size, max_bytes)


def _marginal(
    loaded: "LoadedModel", documents: FirstBytes, covers: int, done: Callable[[int], None]
) -> dict[str, Any]:
    """Bits per byte of all tokenisations, and of the canonical one with the same context."""
    started = time.perf_counter()
    scores = loaded.byte_marginal(covers).score(counted(documents, done))
    marginal = scores.marginal.without_last_end() if documents.cut else scores.marginal
    size = int(marginal.bytes.sum())
    return {
        "marginal_bits_per_byte": marginal.bits_per_byte(),
        "marginal_bits_per_byte_interval": marginal.interval(),
        "marginal_bits_per_byte_with_end": marginal.bits_per_byte(with_end=True),
        "canonical_bits_per_byte": scores.canonical.bits_per_byte(),
        "covers": covers,
        "dropped_histories": int(scores.dropped.sum()),
        "dropped_bits_per_byte": float(scores.dropped_bits.sum() / size),
        "tokens_read_per_byte": float(scores.tokens_read.sum() / size),
        "marginal_seconds": time.perf_counter() - started,
    }


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Shows what `evaluate` returned as a table."""
    text = report.get("text")
    of_text = f": {text['split']} of {text['source']}" if text else ""
    table = Table(title=f"evaluation of step {report['step']}{of_text}")
    table.add_column()
    table.add_column("bits per byte", justify="right")
    table.add_column("95% interval", justify="right")
    bound = "\u2264 " if "upper_bound" in report else ""
    for label, key in (("bytes", "bits_per_byte"), ("with end", "bits_per_byte_with_end")):
        interval = interval_words(report[f"{key}_interval"])
        table.add_row(label, f"{bound}{report[key]:.4f}", interval)
    if "covers" in report:
        label = f"all tokenisations, {report['covers']} covers"
        interval = interval_words(report["marginal_bits_per_byte_interval"])
        table.add_row(label, f"{report['marginal_bits_per_byte']:.4f}", interval)
    for label, name in (("gzip -9", "gzip"), ("xz -9e", "xz")):
        if f"{name}_bits_per_byte" in report:
            table.add_row(label, f"{report[f'{name}_bits_per_byte']:.4f}", "")
    cut = ", the last one cut" if report["last_document_cut"] else ""
    table.caption = (
        f"{report['documents']:,} documents{cut}, {report['bytes']:,} bytes; context "
        f"{report['context']}, stride {report['stride']}; {report['seconds']:.1f} s, "
        f"{report['bytes_per_second']:,.0f} bytes/s on {report['machine']}"
    )
    if text:
        table.caption += f"; {describe_text(text)}"
    if bound:
        table.caption += (
            f"; \u2264: {UPPER_BOUND}; {report['bytes_per_symbol']:.2f} bytes per token"
        )
    if "covers" in report:
        table.caption += (
            f"; over all tokenisations: {report['canonical_bits_per_byte']:.4f} is the canonical "
            f"one with the same context, {report['dropped_histories']:,} histories were dropped, "
            f"worth about {report['dropped_bits_per_byte']:.2g} bits per byte, and the model read "
            f"{report['tokens_read_per_byte']:.1f} tokens per byte"
        )
    if report["bits_per_byte_interval"] is None:
        table.caption += f"; an interval needs {LEAST_DOCUMENTS} documents that are not empty"
    (console or TerminalConsole()).print(table)
