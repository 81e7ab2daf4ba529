import io
import math

import numpy as np
import pytest
from rich.console import Console

from bytelm.core.errors import UserError
from bytelm.evaluation.compressors import compressor_bpb
from bytelm.evaluation.report import evaluate, print_report
from bytelm.inference.scoring import DocumentScores

DOCUMENTS = [b"some text", b"", b"\xff\x00\r\n" * 9, b"more text"] * 4


class Loaded:
    """A model that spends 3 bits on each byte and 5 on each END."""

    context = 16
    default_stride = 8
    step = 7
    tokenizer = None

    def score_documents(self, documents, *, stride, batch_size, done):
        lengths = np.array([len(document) for document in documents])
        self.scored = lengths.tolist()
        return DocumentScores(
            3 * math.log(2) * lengths, np.full(len(lengths), 5 * math.log(2)), lengths, lengths
        )


@pytest.fixture
def loaded():
    return Loaded()


def test_the_figures_are_those_of_the_documents(loaded):
    report = evaluate(loaded, iter(DOCUMENTS), batch_size=2)
    raw = sum(map(len, DOCUMENTS))
    assert (report["documents"], report["bytes"], report["step"]) == (16, raw, 7)
    assert (report["context"], report["stride"]) == (16, 8)
    assert report["bits_per_byte"] == pytest.approx(3)
    assert report["bits_per_byte_with_end"] == pytest.approx(3 + 5 * 16 / raw)
    low, high = report["bits_per_byte_with_end_interval"]
    assert low < report["bits_per_byte_with_end"] < high
    compressed = compressor_bpb(DOCUMENTS)
    assert report["gzip_bits_per_byte"] == compressed["gzip"]
    assert report["xz_bits_per_byte"] == compressed["xz"]

    shown = io.StringIO()
    print_report(report, Console(file=shown, width=100))
    for text in ("3.0000", f"{report['gzip_bits_per_byte']:.4f}", f"{raw} bytes"):
        assert text in shown.getvalue()


@pytest.mark.parametrize("read", [list, iter])
def test_max_bytes_cuts_the_last_document_which_then_has_no_end(loaded, read):
    report = evaluate(loaded, read(DOCUMENTS), batch_size=2, max_bytes=10)
    assert loaded.scored == [9, 0, 1]
    assert (report["documents"], report["bytes"], report["max_bytes"]) == (3, 10, 10)
    assert report["last_document_cut"]
    assert report["bits_per_byte"] == pytest.approx(3)
    assert report["bits_per_byte_with_end"] == pytest.approx(3 + 5 * 2 / 10)
    assert report["xz_bits_per_byte"] == compressor_bpb([b"some text", b"", b"\xff"])["xz"]
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    assert "3 documents, the last one cut, 10 bytes" in out.getvalue()


def test_max_bytes_at_the_end_of_a_document_keeps_its_end(loaded):
    report = evaluate(loaded, iter(DOCUMENTS), batch_size=2, max_bytes=45, compressors=False)
    assert (report["documents"], report["bytes"]) == (3, 45)
    assert not report["last_document_cut"] and "xz_bits_per_byte" not in report
    assert report["bits_per_byte_with_end"] == pytest.approx(3 + 5 * 3 / 45)
    with pytest.raises(UserError, match="max-bytes is 0"):
        evaluate(loaded, DOCUMENTS, max_bytes=0)


def test_few_documents_have_no_interval_and_it_is_said(loaded):
    report = evaluate(loaded, DOCUMENTS[:4], batch_size=2, compressors=False)
    assert report["bits_per_byte_interval"] is None
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    assert "n/a" in out.getvalue() and "10 documents" in out.getvalue()


def test_documents_without_a_byte(loaded):
    with pytest.raises(UserError, match="no bytes"):
        evaluate(loaded, [b"", b""], batch_size=2)
