"""Evaluations during training: named with options, checked before the first step, and recorded."""

import dataclasses
import json

import pytest

import bytelm
from bytelm.core.errors import UserError
from bytelm.evaluation import while_training
from bytelm.evaluation.robustness import Robustness
from bytelm.evaluation.suite import evaluate
from bytelm.evaluation.text import evaluation_text
from bytelm.evaluation.training_suite import described
from bytelm.nn.mesh import MeshConfig
from bytelm.training.loop import dry_run, train
from tests.training.tiny_run import STEPS, assert_same, params, stop_after, tiny_config


def test_options_are_written_after_the_name():
    found = described("robustness kinds=case,delete rates=0.5 seed=3")
    assert found == Robustness(kinds=("case", "delete"), rates=(0.5,), seed=3)
    assert described("bits compressors=False").compressors is False
    assert described("languages 'files=a b.jsonl' max_sentences=None").files == ("a b.jsonl",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("robustnes", "did you mean robustness"),
        ("robustness knds=case", r"no option knds \(did you mean kinds\?\)"),
        ("robustness kinds", "no option kinds.*NAME=VALUE|NAME=VALUE"),
        ("segmentation rate=1", "it has no options"),
        ("robustness seed=much", "seed is 'much'"),
        ("", "give the name of an evaluation"),
    ],
)
def test_mistakes_are_named(words, message):
    with pytest.raises(UserError, match=message):
        described(words)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("text"))
    suite = ("bits compressors=False", "robustness kinds=case rates=0.5")
    more = {"evaluations": suite, "evaluate_every": 2, "evaluation_bytes": 100}
    return dataclasses.replace(
        config,
        mesh=MeshConfig(data=2),
        train=dataclasses.replace(config.train, tensorboard=True, **more),
    )


def lines(run):
    """The records of evaluations, without times."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    kept = [record for record in records if "evaluation/bits/bpb" in record]
    return [
        {name: x for name, x in record.items() if name == "step" or name.startswith("evaluation")}
        for record in kept
    ]


def test_a_run_on_a_mesh_evaluates_and_resumes_exactly(config, tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole, evaluator=while_training)
    assert [line["step"] for line in lines(whole)] == [2, 4, STEPS]
    assert "bits at step 2: bpb" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        train(config, parts, evaluator=while_training)
    assert [line["step"] for line in lines(parts)] == [2]
    train(config, parts, resume=True, evaluator=while_training)
    assert lines(parts) == lines(whole)
    assert_same(params(parts), params(whole))

    # The figures are those of an evaluation of the checkpoint.
    loaded = bytelm.load(whole)
    text = evaluation_text(loaded, config.data, "validation")
    report = evaluate(loaded, text, ["bits"], max_bytes=100)
    assert lines(whole)[-1]["evaluation/bits/bpb"] == report.figures["bpb"].value
    assert "evaluation/robustness/perturbed/case/0.5/accuracy" in lines(whole)[-1]
    (events,) = (whole / "tensorboard").iterdir()
    assert b"evaluation/bits/bpb" in events.read_bytes()


def test_what_cannot_run_is_refused_before_the_first_step(config, tmp_path):
    def changed(*suite):
        return dataclasses.replace(
            config, train=dataclasses.replace(config.train, evaluations=suite)
        )

    for suite, message in (
        (("segmentation",), "needs a model with patches"),
        (("bits", "bits compressors=false"), "names bits twice"),
        (("bit",), "did you mean bits"),
    ):
        with pytest.raises(UserError, match=message):
            dry_run(changed(*suite), tmp_path / "run", evaluator=while_training)
    with pytest.raises(UserError, match=r"evaluator=bytelm\.evaluation"):
        train(config, tmp_path / "run")
