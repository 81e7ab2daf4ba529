"""Whole comparisons of tiny models: what they run, what they do not run again, what they refuse."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, Files
from bytelm.evaluation.robustness import Robustness
from bytelm.experiments import compare, runs, sizing
from bytelm.experiments import plan as plan_module
from bytelm.experiments.compare import ComparisonPlan, run_comparison
from bytelm.experiments.comparison import Comparison, Contender, TokenizerConfig, in_folder
from bytelm.experiments.contenders import count_tasks
from bytelm.experiments.measurements import document_beginnings
from bytelm.experiments.sizing import bytes_per_symbol
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.cost import row_flops
from bytelm.training.distributed import StopRequest
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.optimizer import AdamW

FLAT = TransformerConfig(width=16, depth=1, head_width=8)


def experiment(model, sequence_length=32) -> ExperimentConfig:
    return ExperimentConfig(
        model=model,
        data=DataConfig(sequence_length=sequence_length, batch_size=4),
        optimizer=AdamW(learning_rate=1e-2, warmup=1),
        mesh=MeshConfig(data=1),
    )


CONTENDERS = {
    "bytes": Contender(experiment(FLAT)),
    "bpe": Contender(
        experiment(dataclasses.replace(FLAT, vocabulary=264), 16), TokenizerConfig("bpe", 264)
    ),
    "spacebyte": Contender(
        experiment(
            SpaceByteConfig(
                local_width=16,
                local_depth=2,
                global_width=16,
                global_depth=1,
                head_width=8,
                bytes_per_slot=2.0,
            )
        )
    ),
}


TWO = {name: CONTENDERS[name] for name in ("bpe", "spacebyte")}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    words = {"english": ["to", "be", "or", "not", "\n"], "german": ["sein", "oder", "nicht", "\n"]}
    for language, choice in words.items():
        for seed, name in enumerate(("train", "valid", "test", "other.test")):
            text = " ".join(np.random.default_rng(seed).choice(choice, 700))
            (folder / f"{language}.{name}.txt").write_text(text)
    return folder


def corpus(language: str, folder: Path) -> DataConfig:
    return DataConfig(
        source=Files(
            files=(f"{language}.train.txt",),
            validation_files=(f"{language}.valid.txt",),
            test_files=(f"{language}*test.txt",),
        ),
        cache_dir=str(folder / "cache"),
    )


@pytest.fixture(scope="module")
def comparison(root) -> Comparison:
    smallest = 3 * 4 * row_flops(CONTENDERS["spacebyte"].config)
    return Comparison(
        title="Toys",
        contenders=TWO,
        baseline="bpe",
        budgets=(2 * smallest, 3 * smallest),
        corpora={"english": corpus("english", root)},
        learning_rates=(0.5, 1.0),
        shard_bytes=32,
        robustness=Robustness(kinds=("delete",), rates=(0.1,)),
        robustness_bytes=500,
        adaptation={"german": corpus("german", root)},
        timed_steps=1,
    )


def plan_of(comparison: Comparison, output: Path, root: Path) -> ComparisonPlan:
    """The plan as `run_comparison` makes it."""
    return ComparisonPlan(in_folder(comparison, root), output)


def rows(output: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The runs of the CSV, by contender and budget."""
    with open(output / "runs.csv") as file:
        return {(row["contender"], row["budget"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def whole(comparison, root, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "comparison"
    assert run_comparison(comparison, output, root=root) == 0
    return output


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """The finished comparison in another place, to go on with."""
    return Path(shutil.copytree(whole, tmp_path / "comparison"))


def test_all_runs_are_done_and_reported(whole, comparison):
    found = rows(whole)
    assert len(found) == len(TWO) * 2
    for (name, budget), row in found.items():
        assert row["state"] == "done"
        assert 0 < float(row["bpb"]) < 9 and "bpb_low" not in row  # two documents are too few
        assert float(row["train_flops"]) <= float(budget)
        assert float(row["train_flops"]) > 0.5 * float(budget)
        assert float(row["parameters"]) > float(row["parameters_without_embeddings"]) > 0
        assert float(row["peak_memory_bytes"]) > 4 * float(row["parameters"])
        assert (row["bytes_per_patch"] != "") == (name == "spacebyte")
        assert (row["bytes_per_token"] != "") == (name == "bpe")
        assert row["upper_bound"] == str(name == "bpe")
        largest = float(budget) == max(comparison.budgets)
        assert (row["perturbed/delete/0.1/bpb"] != "") == largest
        assert (row["adapted/german/bpb"] != "") == largest
    page = (whole / "report.html").read_text()
    assert "Toys" in page and all(name in page for name in TWO)
    assert (whole / "report.md").exists() and (whole / "pareto_train.png").exists()


def test_inference_flops_are_of_the_patches_that_there_were(whole):
    for (name, _), row in rows(whole).items():
        needed = float(row["inference_flops_per_byte"])
        room = float(row["inference_flops_per_byte_capacity"])
        assert needed < room if name == "spacebyte" else needed == pytest.approx(room)


def test_steps_are_timed_in_turns(whole):
    found = rows(whole)
    for name in TWO:
        speeds = {
            row["train_bytes_per_second_in_turns"] for (n, _), row in found.items() if n == name
        }
        assert len(speeds) == 1 and float(speeds.pop()) > 0  # one step for all budgets
    assert "from steps of all contenders in turns" in (whole / "report.md").read_text()


def test_the_sweep_keeps_the_rate_with_the_fewest_bits(whole, comparison, root):
    plan = plan_of(comparison, whole, root)
    assert len(plan.sweep) == 2 * len(TWO)
    for name in TWO:
        bits = {run.multiple: plan.validation(run) for run in plan.sweep if run.contender == name}
        assert plan.chosen(name) == min(bits, key=bits.get)
        used = {run.multiple for run in plan.final() if run.contender == name}
        assert used == {plan.chosen(name)}


def test_all_contenders_read_the_same_text_and_validate_on_it(comparison, whole, root):
    plan = plan_of(comparison, whole, root)
    for run in plan.sweep:
        data = run.config.data
        assert data.task.shard_bytes == 32 and data.source.files == (
            str(root / "english.train.txt"),
        )
        size = run.config.train.validation_rows * data.sequence_length * bytes_per_symbol(data)
        assert size == pytest.approx(2**16, rel=0.01)


def test_a_run_that_is_deleted_is_redone_alone(copy, whole, comparison, root, monkeypatch):
    name = next(path.name for path in sorted(copy.glob("runs/spacebyte-english-*")))
    wanted = rows(whole)
    shutil.rmtree(copy / "runs" / name)
    trained = []
    train = runs.train
    monkeypatch.setattr(
        runs,
        "train",
        lambda config, run_dir, **kw: trained.append(run_dir.name) or train(config, run_dir, **kw),
    )
    assert run_comparison(dataclasses.replace(comparison, adaptation={}), copy, root=root) == 0
    assert trained == [name]
    found = rows(copy)
    for key, row in wanted.items():
        assert row["bpb"] == found[key]["bpb"]


def never(*arguments, **keywords):
    raise AssertionError("this was done before")


def test_nothing_is_done_twice(whole, comparison, root, monkeypatch):
    monkeypatch.setattr(runs, "train", never)
    monkeypatch.setattr(compare, "measure_run", never)
    monkeypatch.setattr(compare, "measure_adaptation", never)
    monkeypatch.setattr(compare, "measure_speeds", never)
    before = rows(whole)
    assert run_comparison(comparison, whole, root=root) == 0
    assert rows(whole) == before


def test_no_report_on_the_way_forgets_a_run_that_is_done(whole, comparison, root, monkeypatch):
    reports = []
    monkeypatch.setattr(
        plan_module,
        "write_report",
        lambda heading, records, output, images: reports.append(records),
    )
    run_comparison(comparison, whole, root=root)
    assert len(reports) > 2
    for records in reports:
        assert {record.state for record in records} == {"done"}
        assert records == reports[-1]


def test_a_tokenizer_may_be_of_less_text(comparison, root, tmp_path, monkeypatch):
    asked = []
    text = sizing.training_text
    monkeypatch.setattr(
        sizing, "training_text", lambda *given: asked.append(given[-1]) or text(*given)
    )
    limited = dataclasses.replace(CONTENDERS["bpe"], tokenizer=TokenizerConfig("bpe", 264, 900))
    contenders = {"bpe": CONTENDERS["bpe"], "limited": limited}
    plan = plan_of(dataclasses.replace(comparison, contenders=contenders), tmp_path, root)
    assert asked == [sizing.TOKENIZER_BYTES, 900]
    used = {run.contender: Path(run.config.data.task.tokenizer).name for run in plan.sweep}
    assert used == {"bpe": "english-bpe-264.json", "limited": "english-bpe-264-of-900.json"}


def test_noise_is_in_the_beginnings_of_all_documents():
    documents = [b"abcdef", b"xy", b"0123456789"]
    assert document_beginnings(documents, 10) == [b"abcd", b"xy", b"0123"]
    assert document_beginnings(documents, 10**6) == documents


def test_a_run_that_fails_does_not_stop_the_others(comparison, root, tmp_path, monkeypatch):
    small = dataclasses.replace(
        comparison,
        learning_rates=(1.0,),
        budgets=comparison.budgets[:1],
        adaptation={},
        robustness=None,
    )
    train = runs.train

    def failing(config, run_dir, **keywords):
        if run_dir.name.startswith("bpe"):
            raise UserError("no luck")
        return train(config, run_dir, **keywords)

    monkeypatch.setattr(runs, "train", failing)
    assert run_comparison(small, tmp_path / "out", root=root) == 1
    states = {name: row["state"] for (name, _), row in rows(tmp_path / "out").items()}
    assert states == {"bpe": "failed", "spacebyte": "done"}
    (done,) = (row for row in rows(tmp_path / "out").values() if row["state"] == "done")
    assert float(done["train_bytes_per_second_in_turns"]) > 0 < float(done["peak_memory_bytes"])
    assert "no luck" in (tmp_path / "out" / "report.md").read_text()


def test_a_contender_that_no_learning_rate_suits_is_reported(
    comparison, root, tmp_path, monkeypatch
):
    small = dataclasses.replace(
        comparison,
        contenders={"bytes": CONTENDERS["bytes"]},
        baseline="bytes",
        budgets=comparison.budgets[:1],
    )

    def failing(config, run_dir, **keywords):
        raise UserError("it diverged")

    monkeypatch.setattr(runs, "train", failing)
    assert run_comparison(small, tmp_path / "out", root=root) == 1
    (row,) = rows(tmp_path / "out").values()
    assert row["state"] == "failed"
    assert row["reason"] == "no learning rate can be trained: it diverged"


def test_a_stop_ends_it_and_the_report_says_so(comparison, root, tmp_path, monkeypatch):
    monkeypatch.setattr(StopRequest, "agreed", lambda self: True)
    assert run_comparison(comparison, tmp_path / "out", root=root) == 143
    assert {row["state"] for row in rows(tmp_path / "out").values()} == {"waiting"}


def test_tasks_do_one_run_each(comparison, root, tmp_path, capsys):
    small = dataclasses.replace(
        comparison,
        contenders={"bytes": CONTENDERS["bytes"]},
        baseline="bytes",
        learning_rates=(1.0, 2.0),
        budgets=comparison.budgets[:1],
        adaptation={},
        robustness=None,
        timed_steps=0,
    )
    output = tmp_path / "out"
    assert count_tasks(small) == (2, 3)
    with pytest.raises(UserError, match=r"task 2 needs the learning rate of bytes"):
        run_comparison(small, output, root=root, task=2)
    for task in range(3):
        assert run_comparison(small, output, root=root, task=task) == 0
    with pytest.raises(UserError, match="there is no task 3; there are 3"):
        run_comparison(small, output, root=root, task=3)
    assert sum("done" in line for line in capsys.readouterr().out.splitlines()) >= 3
    report = next(output.glob("runs/*/test_report.json"))
    assert json.loads(report.read_text())["figures"]["bpb"]["value"] > 0


def test_tasks_are_counted_and_nothing_is_written(comparison, root, tmp_path, capsys, monkeypatch):
    file = tmp_path / "declared.py"
    file.write_text(
        "from bytelm.data.config import DataConfig, Files, NextByte\n"
        "from bytelm.experiments.comparison import Comparison, Contender, TokenizerConfig\n"
        "from bytelm.models.transformer import TransformerConfig\n"
        "from bytelm.training.experiment import ExperimentConfig\n"
        "flat = ExperimentConfig(TransformerConfig(vocabulary=264))\n"
        "comparison = Comparison(\n"
        "    'Toys',\n"
        "    {'a': Contender(flat, TokenizerConfig('bpe', 264)), 'b': Contender(flat)},\n"
        "    'a',\n"
        f"    (1e9, 1e10), {{'english': {corpus('english', tmp_path)!r}}}, seeds=(0, 1),\n"
        "    learning_rates=(0.5, 1.0, 2.0),\n"
        ")\n"
    )
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["compare", "declared.py", "--root", str(root), "--tasks"]) == 0
    assert capsys.readouterr().out == "6 14\n"
    assert [
        path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts
    ] == before
    one_rate = dataclasses.replace(comparison, learning_rates=(1.0,))
    assert count_tasks(one_rate) == (0, 4)


def test_budgets_of_bytes_and_of_inference(comparison, root, tmp_path):
    of_bytes = dataclasses.replace(comparison, axis="raw_bytes", budgets=(2000.0,), adaptation={})
    for run in plan_of(of_bytes, tmp_path / "bytes", root).sweep:
        size = run.config.train.steps * run.bytes_per_step
        assert 2000 - run.bytes_per_step < size <= 2000
    contenders = {
        "bytes": dataclasses.replace(
            CONTENDERS["bytes"], sizes=({"model.depth": 1}, {"model.depth": 3})
        )
    }
    deep = (
        row_flops(
            dataclasses.replace(
                CONTENDERS["bytes"].config, model=dataclasses.replace(FLAT, depth=3)
            )
        )
        / 32
    )
    of_inference = dataclasses.replace(
        comparison,
        baseline="bytes",
        contenders=contenders,
        axis="inference_flops",
        budgets=(deep,),
        raw_bytes=1000.0,
    )
    assert {
        run.config.model.depth for run in plan_of(of_inference, tmp_path / "i", root).sweep
    } == {3}
    far = dataclasses.replace(of_inference, budgets=(10 * deep,))
    with pytest.raises(UserError, match=r"the size nearest to .* give it a size within 10%"):
        plan_of(far, tmp_path / "far", root)


def test_a_budget_too_small_for_one_step_is_refused_before_anything_runs(
    comparison, root, tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "train", None)
    small = dataclasses.replace(comparison, budgets=(10.0,))
    with pytest.raises(UserError, match="contender bpe: a budget of 10 FLOPs is too small"):
        run_comparison(small, tmp_path / "out", root=root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contenders": {}}, "has no contenders"),
        ({"budgets": (1e9, 1e9)}, "names one of its budgets twice"),
        ({"budgets": (-1.0,)}, "must be above 0"),
        ({"baseline": "other"}, "the baseline 'other' is not a contender"),
        ({"contenders": {"bytes": CONTENDERS["bytes"], "a/b": CONTENDERS["bpe"]}}, "'a/b'"),
        (
            {"contenders": {"bytes": CONTENDERS["bytes"], "Bytes": CONTENDERS["bytes"]}},
            "contenders of one name",
        ),
        ({"axis": "inference_flops"}, "raw_bytes is the amount"),
        (
            {"contenders": {"bytes": Contender(experiment(ByT5Config()))}},
            "contender bytes has an encoder",
        ),
        (
            {"contenders": {"bytes": Contender(experiment(FLAT), sizes=({}, {}))}},
            "several sizes",
        ),
        ({"adaptation": {"english": DataConfig()}}, "corpora and adaptations of one name"),
    ],
)
def test_what_cannot_be_compared_is_refused(comparison, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(
            comparison, **{"baseline": "bytes", "contenders": CONTENDERS, **changes}
        )


def test_a_wrong_field_of_a_contender_is_named(comparison, root, tmp_path):
    contenders = {
        "bytes": Contender(experiment(FLAT), at={comparison.budgets[0]: {"model.widht": 4}})
    }
    wrong = dataclasses.replace(comparison, baseline="bytes", contenders=contenders)
    with pytest.raises(UserError, match=r"contender bytes .*model\.widht.*did you mean"):
        plan_of(wrong, tmp_path / "out", root)


def test_a_contender_with_rows_of_its_own_is_refused(comparison, root, tmp_path):
    own = CONTENDERS["bytes"].config
    data = dataclasses.replace(
        own.data, task=dataclasses.replace(own.data.task, unigram="unigram.model")
    )
    contenders = {"bytes": Contender(dataclasses.replace(own, data=data))}
    wrong = dataclasses.replace(comparison, baseline="bytes", contenders=contenders)
    with pytest.raises(
        UserError, match=r"contender bytes of the comparison: data\.shard_bytes is 32"
    ):
        plan_of(wrong, tmp_path / "out", root)


def test_files_that_are_not_there_are_named_before_anything_is_written(comparison, tmp_path):
    with pytest.raises(UserError, match=r"english\.train\.txt, and no file .* with --root"):
        run_comparison(comparison, tmp_path / "out", root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_directory_of_another_comparison_is_left_alone(whole, comparison, root):
    other = dataclasses.replace(comparison, shard_bytes=16)
    with pytest.raises(UserError, match="holds a run of another config"):
        run_comparison(other, whole, root=root)
