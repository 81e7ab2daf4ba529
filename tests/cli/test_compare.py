"""`bytelm compare`."""

from tests.cli.running import fails


def test_comparisons_are_known_by_name(capsys):
    assert "name a comparison or the path of a file first" in fails(capsys, "compare")
    error = fails(capsys, "compare", "comparison/gpu")
    assert "there is no comparison 'comparison/gpu' (did you mean comparison/cpu" in error
    assert "did you mean train" in fails(capsys, "tarin")
