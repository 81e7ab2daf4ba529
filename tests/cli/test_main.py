"""The command line: a mistake is one clear sentence and a non-zero exit, and nothing is lost."""

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

import bytelm
from bytelm.cli.main import COMMANDS, command, main
from bytelm.core.errors import UserError
from bytelm.training import distributed, host_memory
from bytelm.training.run_directory import lock

TINY = """
--model.width 16 --model.depth 1 --model.head-width 8 --data.sequence-length 16
--data.batch-size 8 --data.held-out 0.2 --train.validation-rows 8
--train.sample-bytes 0 --train.steps 2 --train.validate-every 2 --mesh.data 1
--train.no-tensorboard
""".split()


@pytest.fixture
def lines(tmp_path) -> Path:
    """Forty documents in a JSONL file."""
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i} of text"}) + "\n" for i in range(40)))
    return path


def fails(capsys, *arguments: str) -> str:
    """The one sentence that the command prints for a mistake."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def train(*arguments: str) -> tuple[str, ...]:
    return ("train", "transformer_tiny", *TINY, *arguments)


def test_no_command_lists_the_commands(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("train", "eval", "generate", "segment", "ablate", "data"))


def test_unknown_command(capsys):
    assert "did you mean train?" in fails(capsys, "trian")


def test_unknown_preset(capsys):
    error = fails(capsys, "train", "transformer_tny")
    assert "no preset 'transformer_tny' (did you mean transformer_tiny" in error


def test_missing_preset(capsys):
    assert "name a preset or the path" in fails(capsys, "train", "--train.steps", "3")


def test_missing_config_file(capsys):
    assert "no config file mine.py" in fails(capsys, "train", "mine.py")


def test_unknown_field_suggests_the_right_one(capsys):
    error = fails(capsys, "train", "transformer_tiny", "--model.widht", "3")
    assert "no option --model.widht (did you mean --model.width?)" in error


def test_wrong_type_names_the_option(capsys):
    error = fails(capsys, "train", "transformer_tiny", "--model.width", "wide")
    assert "--model.width is 'wide'; it must be a whole number" in error


def test_fields_that_contradict_each_other(capsys):
    error = fails(capsys, "train", "transformer_tiny", "--model.width", "100")
    assert "model.width 100 is no multiple of model.head_width 64" in error


def test_print_config_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(train("--print-config")) == 0
    assert json.loads(capsys.readouterr().out)["model"]["width"] == 16
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mesh.data", "3", "--mesh.fsdp", "4"], "needs 12 devices and there are 8"),
        (["--mesh.data", "3"], "cannot be divided by the 3 batch shards"),
        (["--train.accumulation", "3"], "times train.accumulation 3"),
        (["--data.files", "nothing*.txt"], "no file matches 'nothing*.txt'"),
        (["--data.files"], "no file"),
        (["--data.dataset", "wiki41b"], "wiki40b"),
    ],
)
def test_what_cannot_run(capsys, tmp_path, lines, options, sentence):
    run_dir = tmp_path / "run"
    files = [] if options[0].startswith("--data") else ["--data.files", str(lines)]
    if options == ["--data.files"]:
        (tmp_path / "empty.txt").touch()
        options, sentence = ["--data.files", str(tmp_path / "empty.txt")], "empty"
    error = fails(capsys, *train(*files, *options, "--run-dir", str(run_dir)))
    assert sentence in error
    assert not run_dir.exists()


def test_broken_json_line_is_named_or_skipped(capsys, tmp_path, lines):
    with lines.open("a") as file:
        file.write('{"text": "torn\n')
    options = train("--data.files", str(lines), "--run-dir", str(tmp_path / "run"))
    error = fails(capsys, *options)
    assert "lines.jsonl" in error and "41" in error and "skip-bad" in error.replace("_", "-")
    assert main([*options, "--data.skip-bad"]) == 0


def test_missing_key_is_named(capsys, tmp_path, lines):
    options = ["--data.files", str(lines), "--data.text-key", "body"]
    error = fails(capsys, *train(*options, "--run-dir", str(tmp_path / "run")))
    assert "body" in error and "lines.jsonl" in error


def test_train_evaluate_generate(capsys, tmp_path, lines):
    run = str(tmp_path / "run")
    assert main(train("--data.files", str(lines), "--run-dir", run)) == 0
    assert f"checkpoint of step 2 in {run}" in capsys.readouterr().out

    assert "already holds a run" in fails(
        capsys, *train("--data.files", str(lines), "--run-dir", run)
    )
    assert "train.seed: 0 -> 1" in fails(
        capsys,
        *train("--data.files", str(lines), "--run-dir", run, "--resume", "--train.seed", "1"),
    )
    with lock(Path(run)):
        error = fails(capsys, "train", "--run-dir", run, "--resume")
        assert f"run directory {run} is in use by process" in error
    assert main(["train", "--run-dir", run, "--resume"]) == 0

    assert main(["eval", "--checkpoint", run]) == 0
    (report,) = Path(run).glob("eval_*.json")
    content = json.loads(report.read_text())
    bits, figures = content["details"]["bits"], content["figures"]
    assert 0 < figures["bpb"]["value"] < 9
    assert bits["bytes"] > 0 and figures["gzip_bpb"]["value"] > 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "validation of lines.jsonl" in shown
    assert content["text"]["trained_on_bytes"] == 0
    options = [
        "--data.sequence-length",
        "12",
        "--data.held-out",
        "0.4",
        "--output",
        f"{run}/a.json",
    ]
    assert main(["eval", "--checkpoint", run, *options]) == 0
    assert (
        json.loads(Path(run, "a.json").read_text())["details"]["bits"]["documents"]
        == bits["documents"]
    )
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "the run has not read this"}\n' * 40)
    assert main(["eval", "--checkpoint", run, "--data.files", str(other)]) == 0
    (report,) = Path(run).glob("eval_step_2_other.jsonl-all_*.json")
    assert json.loads(report.read_text())["details"]["bits"]["documents"] == 40

    capsys.readouterr()
    assert main(["generate", "--checkpoint", run, "--prompt", "line", "--max-bytes", "8"]) == 0
    assert capsys.readouterr().out.startswith("line")
    assert "no checkpoint of step 7" in fails(capsys, "eval", "--checkpoint", run, "--step", "7")
    assert "the model is flat" in fails(capsys, "segment", "--checkpoint", run, "--text", "a")
    error = fails(capsys, "generate", "--checkpoint", run, "--max-bytes", "4", "--top-p", "2")
    assert "top-p is 2" in error.replace("_", "-")


@pytest.mark.parametrize("command", [("eval",), ("generate",), ("segment", "--text", "a")])
def test_path_that_is_no_run(capsys, tmp_path, command):
    assert "is no run directory" in fails(capsys, *command, "--checkpoint", str(tmp_path / "no"))


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


def test_dry_run_and_budget(capsys, tmp_path, lines, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    command = [
        "train",
        "transformer_tiny",
        "--data.batch-size",
        "8",
        "--data.files",
        str(lines),
    ]
    command += ["--data.held-out", "0.2", "--train.budget", "1e6 bytes"]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "(for 1e6 bytes)" in out and str(Path("runs/transformer_tiny")) in out
    assert not list(folder.iterdir())
    error = fails(capsys, *command, "--train.steps", "3")
    assert "train.steps is 3 and train.budget '1e6 bytes'; give one of them" in error
    assert not list(folder.iterdir())


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


def test_eval_needs_a_checkpoint(capsys):
    assert "--checkpoint RUN" in fails(capsys, "eval")


def test_data_describe(capsys, lines):
    assert main(["data", "describe", "--data.files", str(lines), "--data.held-out", "0"]) == 0
    assert "40" in capsys.readouterr().out
    assert "bytelm data describe" in fails(capsys, "data", "descrbe")


def test_profile_writes_a_trace(tmp_path, lines):
    options = [
        "--data.files",
        str(lines),
        "--trace-dir",
        str(tmp_path / "trace"),
        "--steps",
        "1",
    ]
    assert main(["profile", "transformer_tiny", *TINY, *options]) == 0
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    "arguments",
    [
        train("--coordinator", "localhost:1"),
        ("eval", "--checkpoint", "RUN"),
        ("profile", "transformer_tiny"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_memory_is_kept_once_processes_have_joined(capsys, monkeypatch, arguments):
    called = []

    def keep():
        called.append("keep")
        raise UserError("far enough")

    monkeypatch.setattr(distributed, "join", lambda *_: called.append("join"))
    monkeypatch.setattr(host_memory, "keep", keep)
    assert "far enough" in fails(capsys, *arguments)
    assert called == (["join", "keep"] if arguments[0] == "train" else ["keep"])


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


def test_evaluations_are_kept_and_checked_before_the_work(capsys, tmp_path, lines, monkeypatch):
    run = tmp_path / "run"
    options = ("--data.files", str(lines), "--train.validate-every", "1")
    assert main(train(*options, "--run-dir", str(run))) == 0
    shown = capsys.readouterr().out
    assert f"bytelm eval --checkpoint {run}\n" in shown and "def " not in shown
    checkpoint = ("eval", "--checkpoint", str(run))
    for settings in ((), (), ("--stride", "3"), ("--max-bytes", "30"), ("--step", "best")):
        assert main((*checkpoint, *settings)) == 0
    names = sorted(path.name for path in run.glob("eval_*"))
    steps = {json.loads((run / name).read_text())["step"] for name in names}
    assert len(names) == 5 and 2 in steps
    assert "eval_step_2_validation-2.json" in names
    assert "eval_step_2_validation_stride-3.json" in names

    mine = tmp_path / "mine.json"
    mine.write_text("mine")
    monkeypatch.setattr("bytelm.cli.eval.load", lambda *_: pytest.fail("the work was begun"))
    for output in (mine, tmp_path, tmp_path / "missing/x.json"):
        error = fails(capsys, *checkpoint, "--output", str(output))
        assert any(text in error for text in ("exists already", "is a directory", "no directory"))
    assert mine.read_text() == "mine"
    assert "--step is 'last'; it must be a whole number, best or None" in fails(
        capsys, *checkpoint, "--step", "last"
    )


def test_an_evaluation_that_cannot_be_shown_is_kept(tmp_path, lines, monkeypatch):
    run = tmp_path / "run"
    assert main(train("--data.files", str(lines), "--run-dir", str(run))) == 0
    with (
        contextlib.suppress(OSError),  # of closing it
        open("/dev/full", "w", buffering=1) as full,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", full)
        assert main(("eval", "--checkpoint", str(run))) == 2
    assert (run / "eval_step_2_validation.json").is_file()


def test_a_run_that_is_read_only_is_evaluated_and_printed(capsys, tmp_path, lines, monkeypatch):
    run = tmp_path / "run"
    assert main(train("--data.files", str(lines), "--run-dir", str(run))) == 0
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run)
    with pytest.warns(UserWarning, match="name a file for it with --output"):
        assert main(["eval", "--checkpoint", str(run)]) == 0
    assert "bpb_with_end" in capsys.readouterr().out and not list(run.glob("eval_*"))


def test_a_suite_is_listed_chosen_and_refused(capsys, tmp_path, lines):
    assert main(["eval", "--suite", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("bits", "marginal", "robustness", "targets"))
    run = tmp_path / "run"
    assert main(train("--data.files", str(lines), "--run-dir", str(run))) == 0
    capsys.readouterr()
    evaluate = ("eval", "--checkpoint", str(run), "--max-bytes", "60", "--suite")
    assert "marginal needs a subword model" in fails(capsys, *evaluate, "bits", "marginal")
    assert "segmentation needs a model with patches" in fails(capsys, *evaluate, "segmentation")
    assert "targets needs a model with an encoder" in fails(capsys, *evaluate, "targets")
    assert "did you mean robustness" in fails(capsys, *evaluate, "robustnes")
    error = fails(capsys, *evaluate, "robustness", "--robustness.knds", "case")
    assert "no option --robustness.knds (did you mean --robustness.kinds?)" in error
    assert "is now `--suite bits marginal`" in fails(capsys, "eval", "--byte-marginal")
    noise = ("--robustness.kinds", "case", "delete", "--robustness.rates", "0.5")
    assert main((*evaluate, "bits", "robustness", *noise)) == 0
    (report,) = run.glob("eval_step_2_validation_suite-bits-robustness_*.json")
    assert "robustness.kinds-case-delete" in report.name
    figures = json.loads(report.read_text())["figures"]
    assert figures["perturbed/none/0/bpb"]["value"] == figures["bpb"]["value"]
    assert "perturbed/case/0.5/accuracy" in figures and "gzip_bpb" in figures


def test_comparisons_are_known_by_name(capsys):
    assert "name a comparison or the path of a file first" in fails(capsys, "compare")
    error = fails(capsys, "compare", "comparison/gpu")
    assert "there is no comparison 'comparison/gpu' (did you mean comparison/cpu" in error
    assert "did you mean train" in fails(capsys, "tarin")


def test_help_says_what_each_command_does(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        does = command(name).__doc__.splitlines()[0]
        assert f"  {name:10} {does}\n" in out
        assert does in main_help(capsys, name)
    assert "Describes the documents of a source." in main_help(capsys, "data")
    assert "--data.files" in main_help(capsys, "data", "describe")
    assert "transformer_tiny" in main_help(capsys, "train")


def main_help(capsys, *command: str) -> str:
    with contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"bytelm {bytelm.__version__}, JAX ")


def test_an_unknown_kind_of_work_on_data(capsys):
    assert "did you mean describe?" in fails(capsys, "data", "descibe")
