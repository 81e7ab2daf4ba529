"""Reading what a run has recorded."""

import pytest

from bytelm.training.metrics.records import read_records

GOOD = b'{"step": 1, "bpb": 2.5}\n'


@pytest.mark.parametrize(
    "line",
    [b"[1]", b"3", b"null", b"{}", b'{"step": "2"}', b'{"step": 2.5}', b'{"step": 2', b"\xff", b""],
)
def test_lines_that_are_no_record_are_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    assert read_records(path) == [{"step": 1, "bpb": 2.5}] * 2
