"""`bytelm data` and its kinds of work."""

from bytelm.cli.main import main
from tests.cli.running import fails


def test_data_describe(capsys, lines):
    assert main(["data", "describe", "--data.files", str(lines), "--data.held-out", "0"]) == 0
    assert "40" in capsys.readouterr().out
    assert "bytelm data describe" in fails(capsys, "data", "descrbe")


def test_an_unknown_kind_of_work_on_data(capsys):
    assert "did you mean describe?" in fails(capsys, "data", "descibe")
