"""An ablation from the command line, and patches of its runs."""

import json

from bytelm.cli.main import main
from tests.cli.running import fails

ABLATION = """
from bytelm.experiments.ablation import Ablation
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.patching.segmenter import FixedPatches

ablation = Ablation(
    ExperimentConfig(
        SpaceByteConfig(
            local_width=16, local_depth=2, global_width=16, global_depth=1, head_width=8
        ),
        mesh=MeshConfig(data=1),
        train=TrainConfig(validation_rows=8, sample_bytes=0, tensorboard=False),
    ),
    {"fixed": {"model.segmenter": FixedPatches(4), "train.steps": 1}},
)
"""


def test_ablate_and_segment(capsys, tmp_path, lines, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.py"
    file.write_text(ABLATION)
    options = [
        "--data.files",
        str(lines),
        "--data.held-out",
        "0.2",
        "--data.sequence-length",
        "16",
    ]
    # The contenders' own changes win.
    assert main(["ablate", str(file), *options, "--train.steps", "3", "--max-bytes", "20"]) == 0
    output = tmp_path / "runs" / "ablations" / "tiny"
    assert json.loads((output / "fixed" / "config.json").read_text())["train"]["steps"] == 1
    (row,) = json.loads((output / "report.json").read_text())["contenders"]
    assert row["state"] == "done"
    assert "train.seed: 0 -> 1" in fails(capsys, "ablate", str(file), *options, "--train.seed", "1")

    run, page = str(output / "fixed"), tmp_path / "page.html"
    segment = ["segment", "--checkpoint", run]
    assert main([*segment, "--text", "line 1 <of> text", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "16 bytes" in out and "bits per byte" in out
    written = page.read_text()
    assert "&lt;" in written
    error = fails(capsys, *segment, "--text", "other", "--html", str(page))
    assert "page.html exists; add --overwrite" in error
    patches = tmp_path / "patches.json"
    assert main([*segment, "--text", "line", "--json", str(patches)]) == 0
    found = json.loads(patches.read_text())
    assert (found["step"], found["bytes"], found["levels"]) == (1, 4, 1)
    assert "".join(patch["text"] for patch in found["patches"]) == "line"
    error = fails(capsys, *segment, "--text", "other", "--json", str(patches))
    assert "patches.json exists; add --overwrite" in error and "another --json" in error
    assert page.read_text() == written
    options = ["--file", str(lines), "--html", str(page), "--overwrite"]
    assert main([*segment, *options]) == 0
    assert f"{lines.stat().st_size:,} bytes" in capsys.readouterr().out
    assert page.read_text() != written
    assert "empty" in fails(capsys, *segment, "--text", "")
    assert "--text TEXT" in fails(capsys, *segment)
    assert "--text TEXT" in fails(capsys, *segment, "--text", "a", "--file", str(lines))


def test_unknown_ablation(capsys):
    assert "name an ablation or the path of a file first; there are ablations/b" in fails(
        capsys, "ablate"
    )
    error = fails(capsys, "ablate", "ablations/boundary")
    assert "no ablation 'ablations/boundary' (did you mean ablations/boundaries" in error
