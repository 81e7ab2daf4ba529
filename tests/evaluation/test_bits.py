import gzip
import io
import lzma
import math
import random
from types import SimpleNamespace
from typing import ClassVar

import brotli
import numpy as np
import pytest
from rich.console import Console

from bytelm.core.errors import UserError
from bytelm.core.intervals import LEAST_DOCUMENTS
from bytelm.data.sources.file_formats import zstd
from bytelm.evaluation.bits import Bits, compressor_bpb
from bytelm.evaluation.report import print_report
from bytelm.evaluation.suite import evaluate
from bytelm.inference.scoring import DocumentScores

DOCUMENTS = [b"some text", b"", b"\xff\x00\r\n" * 9, b"more text"] * 4
BITS = [Bits(compressors=False)]


class Loaded:
    """A model that spends 3 bits on each byte and 5 on each END."""

    context = 16
    default_stride = 8
    step = 7
    tokenizer = text_record = run = None
    params: ClassVar = {}
    has_encoder = False

    def score_documents(self, documents, *, stride, batch_size, done):
        lengths = np.array([len(document) for document in documents])
        self.scored = lengths.tolist()
        return DocumentScores(
            3 * math.log(2) * lengths, np.full(len(lengths), 5 * math.log(2)), lengths, lengths
        )


@pytest.fixture
def loaded():
    return Loaded()


def values(report):
    return {name: figure.value for name, figure in report.figures.items()}


def shown(report, width=200):
    out = io.StringIO()
    print_report(report, Console(file=out, width=width))
    return out.getvalue()


def test_the_figures_are_those_of_the_documents(loaded):
    report = evaluate(loaded, iter(DOCUMENTS), batch_size=2)
    raw = sum(map(len, DOCUMENTS))
    details = report.results["bits"].details
    assert (details["documents"], details["bytes"], report.step) == (16, raw, 7)
    assert (report.context, report.stride) == (16, 8)
    found = values(report)
    assert found["bpb"] == pytest.approx(3)
    assert found["bpb_with_end"] == pytest.approx(3 + 5 * 16 / raw)
    low, high = report.figures["bpb_with_end"].interval
    assert low < found["bpb_with_end"] < high
    compressed = compressor_bpb(DOCUMENTS)
    assert (found["gzip_bpb"], found["xz_bpb"]) == (compressed["gzip"], compressed["xz"])
    for text in ("3.0000", f"{found['gzip_bpb']:.4f}", f"16 documents, {raw} bytes"):
        assert text in shown(report)
    bits = report.results["bits"].documents
    assert bits.bytes.tolist() == [len(text) for text in DOCUMENTS]
    np.testing.assert_allclose(bits.bits, 3 * bits.bytes)


@pytest.mark.parametrize("read", [list, iter])
def test_max_bytes_cuts_the_last_document_which_then_has_no_end(loaded, read):
    report = evaluate(loaded, read(DOCUMENTS), batch_size=2, max_bytes=10)
    assert loaded.scored == [9, 0, 1]
    details = report.results["bits"].details
    assert (details["documents"], details["bytes"], report.max_bytes) == (3, 10, 10)
    assert details["last_document_cut"]
    found = values(report)
    assert found["bpb"] == pytest.approx(3)
    assert found["bpb_with_end"] == pytest.approx(3 + 5 * 2 / 10)
    assert found["xz_bpb"] == compressor_bpb([b"some text", b"", b"\xff"])["xz"]
    assert "3 documents, the last one cut, 10 bytes" in shown(report)


def test_max_bytes_at_the_end_of_a_document_keeps_its_end(loaded):
    report = evaluate(loaded, iter(DOCUMENTS), BITS, max_bytes=45)
    details = report.results["bits"].details
    assert (details["documents"], details["bytes"]) == (3, 45)
    assert not details["last_document_cut"] and "xz_bpb" not in report.figures
    assert values(report)["bpb_with_end"] == pytest.approx(3 + 5 * 3 / 45)
    with pytest.raises(UserError, match="max-bytes is 0"):
        evaluate(loaded, DOCUMENTS, BITS, max_bytes=0)


def test_few_documents_have_no_interval_and_it_is_said(loaded):
    report = evaluate(loaded, DOCUMENTS[:4], BITS)
    assert report.figures["bpb"].interval is None
    assert f"an interval needs {LEAST_DOCUMENTS} documents" in shown(report)
    assert "1 document, 9 bytes" in shown(evaluate(loaded, DOCUMENTS[0], BITS))


def test_documents_without_a_byte(loaded):
    with pytest.raises(UserError, match="no bytes"):
        evaluate(loaded, [b"", b""], batch_size=2)


def test_bits_of_tokens_are_a_bound(loaded):
    loaded.tokenizer = SimpleNamespace()
    report = evaluate(loaded, DOCUMENTS, BITS)
    assert report.figures["bpb"].bound and report.figures["bytes_per_token"].value == 1
    assert "\u2264 3.0000" in shown(report) and "marginal counts all" in shown(report)


REPEATED = [b"the same sentence again, " * 40, b"", bytes(range(256)) * 3, b"\x00\xff"]


def test_equals_compressing_the_concatenation_at_once():
    raw = b"".join(REPEATED)
    found = compressor_bpb(iter(REPEATED))
    assert [*found] == ["gzip", "xz", "zstd", "brotli"]
    assert found["gzip"] == 8 * len(gzip.compress(raw, 9)) / len(raw)
    assert found["xz"] == 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw)
    assert found["brotli"] == 8 * len(brotli.compress(raw)) / len(raw)
    size = len(zstd.compress(raw, 19))
    # In one call the size of the content is known, and stands in the header.
    assert found["zstd"] == pytest.approx(8 * size / len(raw), abs=8 * 8 / len(raw))


def test_redundancy_across_documents_counts():
    document = random.Random(0).randbytes(2000)
    once, many = compressor_bpb([document]), compressor_bpb([document] * 8)
    assert min(once.values()) > 8 and max(many.values()) < 1.5


@pytest.mark.parametrize("documents", [[], [b"", b""]])
def test_compressing_no_bytes_is_an_error(documents):
    with pytest.raises(UserError, match="no bytes"):
        compressor_bpb(documents)
