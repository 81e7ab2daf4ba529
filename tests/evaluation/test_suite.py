import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from bytelm.cli.eval import eval_command
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import BYTES, ENCODER, Evaluation, Need, default_suite, evaluate, named
from bytelm.evaluation.text import GivenText


@pytest.fixture
def length(monkeypatch):
    """An evaluation of a user's own."""
    monkeypatch.setattr(Evaluation, "variants", dict(Evaluation.variants))

    @dataclass(frozen=True)
    class Length(Evaluation):
        """Bytes of the text."""

        name: ClassVar[str] = "length"
        factor: int = 1

        def run(self, loaded, text, scoring):
            size = text.size(scoring.max_bytes) * self.factor
            return Result((Figure("length", size, "bytes"),), details={"of": text.name})

    return Length


@pytest.fixture
def loaded():
    return SimpleNamespace(
        step=3,
        run=Path("runs/mine"),
        params={"weight": np.ones(2, np.float32)},
        context=16,
        default_stride=8,
        has_encoder=False,
        text_record=None,
        config=SimpleNamespace(model=SimpleNamespace(family="mine")),
    )


def test_an_evaluation_is_registered_run_and_reported(length, loaded):
    assert length.measures() == "Bytes of the text."
    report = evaluate(loaded, ["ab", b"c"], ["length"])
    assert report.figures["length"] == Figure("length", 3, "bytes")
    assert report.text["bytes"] == 3 and report.text["trained_on_bytes"] is None
    found = evaluate(loaded, GivenText((b"abc",)), [length(factor=2)], max_bytes=2).to_json()
    assert found["figures"]["length"] == {
        "name": "length",
        "value": 4,
        "unit": "bytes",
        "evaluation": "length",
    }
    assert found["details"] == {"length": {"of": "the documents given"}}
    settings = found["settings"]
    assert settings["suite"][0]["factor"] == 2
    assert (settings["stride"], settings["max_bytes"]) == (8, 2)
    assert found["schema"] == 2 and found["version"]
    checkpoint = found["checkpoint"]
    assert (checkpoint["run"], checkpoint["step"], len(checkpoint["digest"])) == ("mine", 3, 32)
    loaded.params["weight"][1] = 2
    again = evaluate(loaded, GivenText((b"abc",)), ["length"], max_bytes=2).to_json()
    assert again["checkpoint"]["digest"] != checkpoint["digest"]
    assert (
        again["text"]["fingerprint"] == found["text"]["fingerprint"] != report.text["fingerprint"]
    )


def test_nothing_is_run_if_one_evaluation_does_not_fit(length, loaded):
    @dataclass(frozen=True)
    class Never(length):
        """Fails if it is run."""

        name: ClassVar[str] = "never"

        def run(self, loaded, text, scoring):
            pytest.fail("it was run")

    @dataclass(frozen=True)
    class Picky(Never):
        """Needs an encoder."""

        name: ClassVar[str] = "picky"
        needs: ClassVar[tuple[Need, ...]] = (ENCODER,)

    message = "picky needs a model with an encoder.* mine.*leave picky out"
    with pytest.raises(UserError, match=message):
        evaluate(loaded, "text", ["never", "picky"])
    with pytest.raises(UserError, match=r"evaluation 'lenght' .*did you mean length.*--import"):
        named("lenght")


def test_an_evaluation_and_a_figure_count_once(length, loaded):
    @dataclass(frozen=True)
    class Other(length):
        """Has a figure of the same name."""

        name: ClassVar[str] = "other"

    with pytest.raises(UserError, match="has the evaluation length twice"):
        evaluate(loaded, "text", [length(factor=2), length(factor=4)])
    with pytest.raises(UserError, match="have the name length, one of length and one of other"):
        evaluate(loaded, "text", ["length", "other"])


def test_a_need_of_bytes(length, loaded):
    @dataclass(frozen=True)
    class OfBytes(length):
        """Needs symbols that are bytes."""

        name: ClassVar[str] = "of_bytes"
        needs: ClassVar[tuple[Need, ...]] = (BYTES,)

    loaded.tokenizer = None
    assert evaluate(loaded, "text", ["of_bytes"]).figures
    loaded.tokenizer = SimpleNamespace()
    with pytest.raises(UserError, match="needs a model whose symbols are bytes"):
        evaluate(loaded, "text", ["of_bytes"])


def test_numbers_of_numpy_are_reported(length, loaded):
    @dataclass(frozen=True)
    class Array(length):
        """Measures with NumPy."""

        name: ClassVar[str] = "array"

        def run(self, loaded, text, scoring):
            return Result((Figure("mean", np.float32(0.5)),), details={"counts": np.arange(2)})

    report = evaluate(loaded, "text", ["array"]).to_json()
    assert json.loads(json.dumps(report))["details"] == {"array": {"counts": [0, 1]}}


def test_a_class_that_is_no_evaluation_is_refused(length, loaded):
    with pytest.raises(UserError, match=r"evaluation .*Nameless has no name"):

        class Nameless(Evaluation):
            def run(self, loaded, text, scoring): ...

    with pytest.raises(UserError, match="has the name 'my-eval'; choose one of letters"):

        class Dashed(length):
            name = "my-eval"

    class Plain(length):
        name = "plain"

    with pytest.raises(UserError, match=r"Plain of the evaluation plain is no dataclass"):
        evaluate(loaded, "text", ["plain"])

    @dataclass(frozen=True)
    class Named(Evaluation):
        name: str = "named"

        def run(self, loaded, text, scoring): ...

    with pytest.raises(UserError, match="name of the evaluation named is an option"):
        named("named")

    @dataclass(frozen=True)
    class Needy(Evaluation):
        name: ClassVar[str] = "needy"
        factor: int

        def run(self, loaded, text, scoring): ...

    with pytest.raises(UserError, match="option factor of the evaluation needy has no default"):
        named("needy")


def test_a_name_is_no_other_option(length):
    @dataclass(frozen=True)
    class Step(length):
        name: ClassVar[str] = "step"

    with pytest.raises(UserError, match="calls itself 'step', as an option of `bytelm eval` does"):
        eval_command(["--help"])


def test_what_is_evaluated_by_default(loaded):
    assert default_suite(loaded) == ("bits",)
    assert default_suite(SimpleNamespace(has_encoder=True)) == ("targets",)
