"""What a comparison plans, and what it refuses before anything runs."""

import dataclasses
from pathlib import Path

import pytest

from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.experiments import runs, sizing
from bytelm.experiments.compare import run_comparison
from bytelm.experiments.comparison import Contender, TokenizerConfig
from bytelm.experiments.contenders import count_tasks
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.training.cost import row_flops
from tests.experiments.toys import CONTENDERS, FLAT, corpus, experiment, plan_of


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
