"""`bytelm data` and its kinds of work."""

import json

import jax
import pytest
from flax import nnx

from bytelm.cli.main import main
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import save_model
from bytelm.training.experiment import ExperimentConfig
from tests.cli.running import fails


def test_data_describe(capsys, lines):
    assert main(["data", "describe", "--data.files", str(lines), "--data.held-out", "0"]) == 0
    assert "40" in capsys.readouterr().out
    assert "bytelm data describe" in fails(capsys, "data", "descrbe")


def test_data_pack(capsys, lines, tmp_path):
    text = ["--data.files", str(lines), "--data.cache-dir", str(tmp_path / "cache")]
    named = ["data", "pack", "transformer_tiny", *text]
    assert main([*named, "--processes", "1"]) == 0
    train, validation, test, total = capsys.readouterr().out.splitlines()
    assert " (train): " in train and str(tmp_path / "cache" / "packed" / "train-") in train
    assert " (validation): " in validation and " (test): " in test
    assert total.startswith("packed ") and total.endswith(" MB/s")
    assert main(named) == 0
    assert capsys.readouterr().out.count("packed before") == 3
    assert main([*named, "--data.held-out", "0"]) == 0
    assert "(validation): no text" in capsys.readouterr().out
    assert "no packed text" in fails(capsys, *named, "--data.read", "stream")


def test_an_unknown_kind_of_work_on_data(capsys):
    assert "did you mean describe?" in fails(capsys, "data", "descibe")


@pytest.fixture
def entropy_run(tmp_path):
    """An entropy model of random parameters, never trained."""
    model = TransformerConfig(width=8, head_width=8, depth=1, window=8)
    built = model.build(nnx.Rngs(0))
    built.head.kernel.set_value(jax.random.normal(jax.random.key(0), built.head.kernel.shape))
    save_model(tmp_path / "run", ExperimentConfig(model), nnx.to_pure_dict(nnx.state(built)), {})
    return tmp_path / "run"


def test_data_entropies(capsys, lines, entropy_run):
    text = ["--data.files", str(lines), "--data.held-out", "0", "--data.sequence-length", "64"]
    named = ["data", "entropies", "--checkpoint", str(entropy_run), *text]
    assert main([*named, "--bytes-per-patch", "3", "--plot", str(lines.with_name("a.png"))]) == 0
    printed = capsys.readouterr().out
    assert "entropy of the next byte" in printed and lines.with_name("a.png").is_file()
    options = printed.splitlines()[-1].removeprefix("for a model: ").split()
    assert options[:2] == ["--model.segmenter", "entropy_model"]
    # What it prints is what `train` takes.
    given = ["train", "spacebyte_tiny", *options, "--print-config"]
    assert main(given) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert 1 <= model["bytes_per_slot"] < 64
    saved = model["segmenter"]
    assert saved["checkpoint"] == str(entropy_run) and 0 < saved["threshold"] < 6

    assert main([*named, "--find", "rise", "--bytes-per-patch", "3", "--samples", "0"]) == 0
    assert "--model.segmenter.threshold None" in capsys.readouterr().out
    assert main([*named, "--threshold", "20"]) == 0
    assert "warning: half of the rows have 0" in capsys.readouterr().out
    assert "spacelike" not in printed
    texts = [
        {"text": word * 20, "script": script}
        for script, word in (("eng", "an owl "), ("zho", "猫"))
    ]
    lines.write_text("".join(json.dumps(each) + "\n" for each in texts))
    assert main([*named, "--threshold", "2", "--data.script-key", "script"]) == 0
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row[1:3]] for row in cells[-2:]] == [
        ["eng", "140"],
        ["zho", "60"],
    ]
    assert "name the entropy model with --checkpoint" in fails(capsys, "data", "entropies", *text)
    assert "must end in .png or .svg" in fails(capsys, *named, "--plot", "a.xyz")
    none = str(lines.parent / "none")
    assert f"error: --checkpoint: {none} is no run" in fails(capsys, *named[:3], none, *text)


def test_overlap_of_two_files(tmp_path, capsys):
    text = "".join(f"line {number} of a text\n" for number in range(20))
    (tmp_path / "train.txt").write_text("before" + text)
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": text}) + '\n{"text": "new"}\n')
    files = [str(tmp_path / name) for name in ("train.txt", "test.jsonl")]
    assert main(["data", "overlap", *files]) == 0
    out = capsys.readouterr().out
    assert "1 (50.00%)" in out  # documents
    assert f"document 1: {len(text)} of its {len(text)} bytes" in out
    lines = "".join(json.dumps({"text": f"{number} {text}"}) + "\n" for number in range(60))
    (tmp_path / "many.jsonl").write_text(lines)
    many = str(tmp_path / "many.jsonl")
    assert main(["data", "overlap", many, many, "--splits", "train", "test"]) == 0
    out = capsys.readouterr().out
    assert "many.jsonl (test): windows" in out and "2 (100.00%)" in out  # of 60
    assert main(["data", "overlap", files[0]]) == 2
    assert "name the text that may hold it" in capsys.readouterr().err
