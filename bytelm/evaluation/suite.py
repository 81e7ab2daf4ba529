"""The registry of evaluations, and the one function that runs them."""

import abc
import dataclasses
import inspect
import keyword
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bytelm.api import LoadedModel
from bytelm.core.checked import did_you_mean
from bytelm.core.config_json import to_dict
from bytelm.core.errors import UserError
from bytelm.core.texts import Texts
from bytelm.core.variants import OWN_FILE, Variant
from bytelm.evaluation.report import Report, Result
from bytelm.evaluation.text import EvaluationText, GivenText, text_to_evaluate
from bytelm.training.checkpoints.digests import digest_of_all
from bytelm.training.hardware import describe_machine


@dataclass(frozen=True)
class Need:
    """A requirement of an evaluation, such as "a model with patches"."""

    words: str
    is_met: Callable[[LoadedModel], bool]


DECODER = Need("a model without an encoder", lambda loaded: not loaded.has_encoder)
ENCODER = Need("a model with an encoder", lambda loaded: loaded.has_encoder)
BYTES = Need("a model whose symbols are bytes", lambda loaded: loaded.tokenizer is None)
TOKENS = Need("a subword model", lambda loaded: loaded.tokenizer is not None)
PATCHES = Need("a model with patches", lambda loaded: loaded.has_patches)


@dataclass(frozen=True)
class Scoring:
    """How texts are scored, the same in all evaluations of a suite.

    Attributes:
        stride: symbols scored by each window after a text's first; None for half the context.
        batch_size: windows scored at a time.
        max_bytes: bytes of the text to read; None for all. The last document is cut, and then has
            no END. With an encoder: inputs, in whole rows.
    """

    stride: int | None = None
    batch_size: int = 16
    max_bytes: int | None = None


class Evaluation(Variant, name="suite", key="name"):
    """The base of all evaluations.

    A subclass is a frozen dataclass, registered by its `name`. Its fields are its options on the
    command line; the first line of its docstring says what it measures.

    Attributes:
        name: on the command line.
        needs: what it needs of the model, checked before anything is run.
        reads_text: whether it reads the text of the suite.
        choosing: options that choose which figures there are, and change none of them.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()
    reads_text: ClassVar[bool] = True
    choosing: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **arguments: Any) -> None:
        _check_name(cls)
        super().__init_subclass__(name=vars(cls).get("name"), **arguments)  # shown in errors

    @classmethod
    def measures(cls) -> str:
        """One line that says what it measures."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]

    def check(self, loaded: LoadedModel) -> None:
        """Raises UserError if the evaluation does not fit the model, or an option is wrong."""
        for need in self.needs:
            if not need.is_met(loaded):
                raise UserError(
                    f"the evaluation {self.name} needs {need.words}, and this is none (its family "
                    f"is {loaded.config.model.family}); leave {self.name} out of the suite."
                )

    @abc.abstractmethod
    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Measures a model that `check` accepts; raises UserError if the text does not fit."""


def _check_name(kind: type[Evaluation]) -> None:
    """Raises UserError for a class that measures and has no name, or one that is no option."""
    if not hasattr(kind, "name"):
        if "run" in vars(kind):
            raise UserError(
                f"the evaluation {kind.__qualname__} has no name; give the class one, as in "
                '`name: ClassVar[str] = "mine"`.'
            )
        return
    name = kind.name
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(
            f"{kind.__qualname__} has the name {name!r}; choose one of letters, digits and _, that "
            "begins with a letter and is no word of Python."
        )


def check_options(kind: type[Evaluation]) -> None:
    """Raises UserError unless a class of evaluations is a dataclass whose fields have defaults."""
    if "__dataclass_fields__" not in vars(kind):
        raise UserError(
            f"the class {kind.__qualname__} of the evaluation {kind.name} is no dataclass; put "
            "@dataclass(frozen=True) before it."
        )
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name == "name":
            raise UserError(
                f"the name of the evaluation {kind.name} is an option; write "
                f'`name: ClassVar[str] = "{kind.name}"` in {kind.__qualname__}.'
            )
        if field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(
                f"the option {field.name} of the evaluation {kind.name} has no default; give it "
                f"one in {kind.__qualname__}."
            )


def default_suite(loaded: LoadedModel) -> tuple[str, ...]:
    """The names of the evaluations that run by default."""
    return ("targets",) if loaded.has_encoder else ("bits",)


def named(name: str) -> Evaluation:
    """The evaluation of this name with its default options; raises UserError if there is none."""
    if name not in Evaluation.variants:
        raise UserError(
            f"there is no evaluation {name!r}{did_you_mean(name, Evaluation.variants)}; choose "
            f"from {', '.join(Evaluation.variants)}. {OWN_FILE}"
        )
    kind = Evaluation.variants[name]
    check_options(kind)
    return kind()


def reads_text(suite: Sequence[Evaluation]) -> bool:
    """Whether any evaluation of a suite reads the text."""
    return any(evaluation.reads_text for evaluation in suite)


def evaluate(
    loaded: LoadedModel,
    text: EvaluationText | Texts | None = None,
    suite: Sequence[str | Evaluation] | None = None,
    *,
    split: str | None = None,
    stride: int | None = None,
    batch_size: int = 16,
    max_bytes: int | None = None,
) -> Report:
    """Runs the evaluations of a suite.

    Args:
        loaded: the model, with or without an encoder.
        text: documents, one or several; None for those of the run's own data. A model with an
            encoder needs an `EvaluationText`, or None.
        suite: names of evaluations, or evaluations with their options; None for "targets" for a
            model with an encoder, and "bits" for any other.
        split: with `text` None, the split of the run's data; None for validation.
        stride, batch_size, max_bytes: as in `Scoring`.

    Raises:
        UserError: for an evaluation that does not exist, is named twice or does not fit, before
            anything runs; for two figures of one name.
    """
    suite = default_suite(loaded) if suite is None else suite
    chosen = [named(each) if isinstance(each, str) else each for each in suite]
    names = [each.name for each in chosen]
    for evaluation in chosen:
        if names.count(evaluation.name) > 1:
            raise UserError(
                f"the suite has the evaluation {evaluation.name} twice, and a report holds each "
                "once; run them one after the other."
            )
        check_options(type(evaluation))
        evaluation.check(loaded)
    read = text_to_evaluate(loaded, text, split) if reads_text(chosen) else GivenText(())
    scoring = Scoring(stride, batch_size, max_bytes)
    results: dict[str, Result] = {}
    for evaluation in chosen:
        started = time.perf_counter()
        result = evaluation.run(loaded, read, scoring)
        seconds = time.perf_counter() - started
        results[evaluation.name] = dataclasses.replace(result, seconds=seconds)
        _check_figures(results)
    return Report(
        run="" if loaded.run is None else loaded.run.absolute().name,
        step=loaded.step,
        digest=digest_of_all(loaded.params),
        suite=[to_dict(each) for each in chosen],
        results=results,
        text=read.about(max_bytes) if reads_text(chosen) else None,
        context=loaded.context,
        stride=loaded.default_stride if stride is None else stride,
        max_bytes=max_bytes,
        machine=describe_machine(),
    )


def _check_figures(results: dict[str, Result]) -> None:
    """Raises UserError if two figures of a suite have one name."""
    had: dict[str, str] = {}
    for name, result in results.items():
        for figure in result.figures:
            if figure.name in had:
                raise UserError(
                    f"two figures have the name {figure.name}, one of {had[figure.name]} and one "
                    f"of {name}; rename one, or run the evaluations one after the other."
                )
            had[figure.name] = name
