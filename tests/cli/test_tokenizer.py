"""`bytelm tokenizer`, and the models that use its file."""

import json

import pytest

from bytelm.cli.main import main
from tests.cli.running import fails, train


def test_a_tokenizer_is_trained_used_and_summed_over(capsys, tmp_path, lines):
    path, run = tmp_path / "bpe.json", tmp_path / "run"
    text = ("--data.files", str(lines))
    make = ("tokenizer", "train", *text, "--size", "262", "--output", str(path))
    assert main(make) == 0
    assert "262 tokens" in capsys.readouterr().out
    assert "exists already" in fails(capsys, *make)
    tokens = ("--data.tokenizer", str(path), "--model.vocabulary", "262")
    assert main(train(*text, *tokens, "--run-dir", str(run))) == 0
    checkpoint = ("--checkpoint", str(run))
    path.unlink()  # the run has its own
    evaluate = ("eval", *checkpoint, "--max-bytes", "30", "--suite", "bits", "marginal")
    assert main((*evaluate, "--marginal.covers", "4")) == 0
    name = "eval_step_2_validation_suite-bits-marginal_max-bytes-30_marginal.covers-4.json"
    report = json.loads((run / name).read_text())
    bpb = {name: figure["value"] for name, figure in report["figures"].items()}
    assert bpb["marginal_bpb"] <= bpb["canonical_bpb"]
    assert bpb["canonical_bpb"] == pytest.approx(bpb["bpb"], rel=1e-4)
    capsys.readouterr()
    generate = ("generate", *checkpoint, "--prompt", "lin", "--max-bytes", "5", "--byte-marginal")
    assert main((*generate, "--covers", "2")) == 0
    assert capsys.readouterr().out.startswith("lin")
    other = tmp_path / "other.json"
    assert main(("tokenizer", "train", *text, "--size", "259", "--output", str(other))) == 0
    error = fails(capsys, "eval", *checkpoint, "--data.tokenizer", str(other))
    assert "is not the tokenizer that the model was trained with" in error
