from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest

from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import ENCODER, Evaluation, Need, default_suite, evaluate, named
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
    assert found["figures"]["length"] == {"name": "length", "value": 4, "unit": "bytes"}
    assert found["suite"][0]["factor"] == 2
    assert found["details"] == {"length": {"of": "the documents given"}}
    assert (found["stride"], found["max_bytes"], found["step"]) == (8, 2, 3)


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
    with pytest.raises(UserError, match=r"evaluation 'lenght' .*did you mean length"):
        named("lenght")


def test_what_is_evaluated_by_default(loaded):
    assert default_suite(loaded) == ("bits",)
    assert default_suite(SimpleNamespace(has_encoder=True)) == ("targets",)
