"""The report of a run's test, as it is saved and read back."""

import json

import pytest

from bytelm.core.figure import Figure
from bytelm.experiments.runs import RunResult, _read_report


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"config": 3}', b"\xff"])
def test_a_damaged_report_leads_to_another_test(tmp_path, content):
    path = tmp_path / "test.json"
    assert _read_report(path) is None
    path.write_bytes(content)
    assert _read_report(path) is None
    path.write_text('{"config": {"a": 1}, "bpb": 2.5}')
    assert _read_report(path) == {"config": {"a": 1}, "bpb": 2.5}


def test_a_report_is_read_back():
    figures = {"bpb": Figure("bpb", 2.5, "bpb", 2.4, 2.7, True), "parameters": Figure("n", 3.0)}
    result = RunResult(figures, (5.0, 10.0), (2, 4))
    saved = json.loads(json.dumps(result.to_json()))
    assert RunResult.from_json(saved, upper_bound=False) == result


def test_a_report_of_an_older_version_is_read():
    """Its figures were plain numbers, and the ends of an interval had names of their own."""
    figures = {"bpb": 2.5, "bpb_low": 2.4, "bpb_high": 2.7, "train_flops": 1e9}
    saved = {"figures": figures, "document_bits": [5.0], "document_bytes": [2]}
    for bound in (True, False):
        result = RunResult.from_json(saved, upper_bound=bound)
        assert result.figures["bpb"] == Figure("bpb", 2.5, "bpb", 2.4, 2.7, bound)
        assert result.figures["train_flops"] == Figure("train_flops", 1e9, "FLOP")
        assert set(result.figures) == {"bpb", "train_flops"}
    assert result.document_bits == (5.0,)
    adapted = RunResult.from_json({"figures": {"adapted/de/bpb": 2.0}}, upper_bound=False)
    assert adapted.document_bits == ()
