"""Running one config of an ablation or a comparison, and what it reads back."""

import pytest

from bytelm.experiments.runs import _read_report


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"config": 3}', b"\xff"])
def test_a_damaged_report_is_made_again(tmp_path, content):
    path = tmp_path / "test.json"
    assert _read_report(path) is None
    path.write_bytes(content)
    assert _read_report(path) is None
    path.write_text('{"config": {"a": 1}, "bpb": 2.5}')
    assert _read_report(path) == {"config": {"a": 1}, "bpb": 2.5}
