"""`bytelm plan`."""

import json

import jax
import pytest

from bytelm.cli.main import main
from tests.cli.running import TINY, fails


@pytest.fixture(autouse=True, scope="module")
def eight_devices():
    """Starts JAX before a topology does, with fewer."""
    assert jax.device_count() == 8


def plan(*arguments: str) -> tuple[str, ...]:
    return ("plan", "transformer_tiny", *TINY, *arguments)


def test_a_plan_of_a_tiny_run(capsys, tmp_path):
    path = tmp_path / "plan.json"
    options = ["--topology", "gpu:2xh100", "--mesh.data", "2", "--bytes", "1e9"]
    assert main(plan(*options, "--output", str(path))) == 0
    out = capsys.readouterr().out
    assert "2 x NVIDIA H100: data 2" in out and "1e9 bytes: at least" in out
    assert json.loads(path.read_text())["devices"]["topology"] == "gpu:2xh100"
    assert "add --overwrite" in fails(capsys, *plan("--output", str(path)))


def test_a_row_of_a_table_without_compiling(capsys):
    assert main(plan("--no-compile", "--fit", "--markdown", "--topology", "gpu:2xl4")) == 0
    header, line, row, options = capsys.readouterr().out.splitlines()
    assert header.count("|") == line.count("|") == row.count("|")
    assert row.startswith("| transformer_tiny | 2 x NVIDIA L4") and row.endswith("estimated |")
    assert options.startswith("the fastest that fits: --mesh.data")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--topology", "tpu"], "there is no such topology"),
        (["--fit", "--candidates", "0"], "--candidates is 0; it must be at least 1"),
        (["--fit", "--candidates", "2", "--no-compile"], "add --fit, without --no-compile"),
        (["--topology", "cpu:4", "--mesh.fsdp", "8"], "needs 8 devices and there are 4"),
        (["--mesh.data", "3"], "cannot be divided by the 3 batch shards"),
        (["--no-compile", "--mesh.data", "3"], "cannot be divided by the 3 batch shards"),
        (["--bytes", "0"], "it must be above 0"),
        (["--bytes", "inf"], "it must be above 0, and finite"),
    ],
)
def test_what_cannot_be_planned(capsys, options, sentence):
    assert sentence in fails(capsys, *plan(*options))
