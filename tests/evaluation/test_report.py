import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from bytelm.errors import UserError
from bytelm.evaluation.bits_per_byte import DocumentScores
from bytelm.evaluation.compressors import compressor_bpb
from bytelm.evaluation.report import evaluate, print_report, write_report

DOCUMENTS = [b"some text", b"", b"\xff\x00\r\n" * 9, b"more text"]


class Loaded:
    """A model that spends 3 bits on each byte and 5 on each END."""

    context = 16
    default_stride = 8
    step = 7
    tokenizer = None

    def score_documents(self, documents, *, stride, batch_size):
        lengths = np.array([len(document) for document in documents])
        return DocumentScores(
            3 * math.log(2) * lengths, np.full(len(lengths), 5 * math.log(2)), lengths, lengths
        )


@pytest.fixture
def loaded():
    return Loaded()


def test_the_figures_are_those_of_the_documents(loaded, tmp_path):
    report = evaluate(loaded, iter(DOCUMENTS), batch_size=2)
    raw = sum(map(len, DOCUMENTS))
    assert (report["documents"], report["bytes"], report["step"]) == (4, raw, 7)
    assert (report["context"], report["stride"]) == (16, 8)
    assert report["bits_per_byte"] == pytest.approx(3)
    assert report["bits_per_byte_with_end"] == pytest.approx(3 + 5 * 4 / raw)
    low, high = report["bits_per_byte_with_end_interval"]
    assert low < report["bits_per_byte_with_end"] < high
    compressed = compressor_bpb(DOCUMENTS)
    assert report["gzip_bits_per_byte"] == compressed["gzip"]
    assert report["xz_bits_per_byte"] == compressed["xz"]

    write_report(report, tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["bits_per_byte"] == report["bits_per_byte"]

    shown = io.StringIO()
    print_report(report, Console(file=shown, width=100))
    for text in ("3.0000", f"{report['gzip_bits_per_byte']:.4f}", f"{raw} bytes"):
        assert text in shown.getvalue()


def test_max_bytes_ends_after_a_whole_document(loaded):
    report = evaluate(loaded, DOCUMENTS, batch_size=2, max_bytes=10, compressors=False)
    assert (report["documents"], report["bytes"]) == (3, 9 + 0 + 36)
    assert "xz_bits_per_byte" not in report
    print_report(report, Console(file=io.StringIO()))


def test_documents_without_a_byte(loaded):
    with pytest.raises(UserError, match="no bytes"):
        evaluate(loaded, [b"", b""], batch_size=2)
