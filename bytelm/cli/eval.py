"""`bytelm eval`."""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytelm.api import LoadedModel, load
from bytelm.cli.arguments import parse, parse_part
from bytelm.cli.options import Count, Place, names_of
from bytelm.cli.usage import HELP
from bytelm.core.config_json import to_dict
from bytelm.core.errors import UserError
from bytelm.core.files import check_new_file, may_write, write_whole
from bytelm.core.terminal_text import command_line, printable_name, say
from bytelm.data.config import DataConfig
from bytelm.evaluation import Evaluation, Harness, evaluate
from bytelm.evaluation.report import print_report, report_name, report_page, write_report
from bytelm.evaluation.suite import check_options, default_suite, named, reads_text
from bytelm.evaluation.text import SplitText, evaluation_text
from bytelm.nn.mesh import MeshConfig
from bytelm.tokenizers.tokenizer import load_tokenizer
from bytelm.training import host_memory
from bytelm.training.checkpoints.scores import Step

MOVED = {"--byte-marginal": "--suite bits marginal", "--covers": "--marginal.covers"}
"""Old options -> new ones."""

SHORT = {"--harness": "--harness.tasks", "--harness-path": "--harness.path"}
"""Short names of options of the evaluation `harness`."""


@dataclass(frozen=True)
class EvalCommand:
    """Evaluates a checkpoint: exact bits per byte over whole documents, or other evaluations."""

    data: DataConfig
    checkpoint: Place
    """The run directory."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """The devices that score texts; none = those of the run, or rows alone over all devices if
    there are too few. Any length may be divided."""
    suite: tuple[str, ...] = ()
    """Names of evaluations, each with options of its own below; `list` shows them all. None = bits,
    or targets for a model with an encoder."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    verify: bool = True
    """Whether to compare the checkpoint with its digests."""
    split: str | None = None
    """Which split: train, validation or test; none = the one whose files are given, or validation,
    or all documents of other --data.files. Documents of the run's text keep their splits."""
    stride: Count | None = None
    """Symbols that each window scores, with the rest as context; none = half a row."""
    batch_size: Count = 16
    """Windows scored at once; none = 16, or the run's micro-batch if that is smaller."""
    max_bytes: Count | None = None
    """Score only the first so many bytes: the last document is cut, without END; none = all of the
    split. With an encoder: stop after the row that reaches so many inputs."""
    output: Place | None = None
    """New file for the JSON report; none = in the run directory, named after the settings. A page
    of HTML with its charts is written next to it."""


@dataclass(frozen=True)
class _FirstOptions:
    """Those that choose the checkpoint, whose config sets the defaults of the others."""

    checkpoint: Place | None = None
    suite: tuple[str, ...] = ()
    step: Step | None = None
    output: Place | None = None
    verify: bool = True


def eval_command(arguments: Sequence[str]) -> int:
    """Evaluates a checkpoint: exact bits per byte over whole documents, or other evaluations.

    `bytelm eval --checkpoint RUN [--suite NAME...] [--harness TASK...] [options]`
    """
    arguments = _whole_names(arguments)
    for name in names_of(arguments):
        if name in MOVED:
            raise UserError(f"{name} is now `{MOVED[name]}`.")
    known, _ = parse_part(_FirstOptions, arguments, "eval")
    if known.suite == ("list",):
        say(_listed())
        return 0
    kind = _command_type()
    if known.checkpoint is None:
        if HELP & set(arguments):
            parse(kind, arguments, "eval", kind(DataConfig(), Path("RUN")))
        raise UserError("name the run to evaluate: --checkpoint RUN.")

    if known.output is not None:
        page = known.output.with_suffix(".html")
        if known.output == page:
            raise UserError(
                f"--output {page} names the page of HTML; name the JSON report, such as "
                f"{page.with_suffix('.json')}, next to which the page is written."
            )
        check_new_file(known.output)
        check_new_file(page)
    read_only = known.output is None and not may_write(known.checkpoint)
    if read_only and known.checkpoint.is_dir():
        warnings.warn(
            f"{known.checkpoint} cannot be written to, so the report is printed and not kept; name "
            "a file for it with --output.",
            stacklevel=2,
        )
    host_memory.keep()
    loaded = load(known.checkpoint, known.step, verify=known.verify)
    config = loaded.config
    batch_size = min(kind.batch_size, config.data.batch_size // config.train.accumulation)
    mesh = config.mesh.as_fits()
    default = kind(config.data, Path("RUN"), mesh, batch_size=batch_size)  # RUN is in the arguments
    _evaluate(loaded, parse(kind, arguments, "eval", default), keep=not read_only)
    return 0


def _command_type() -> type[EvalCommand]:
    """`EvalCommand` with a field for each evaluation that has options."""
    taken = {"list", *(field.name for field in dataclasses.fields(EvalCommand))}
    for name, kind in Evaluation.variants.items():
        check_options(kind)
        if name in taken:
            raise UserError(
                f"{kind.__qualname__} calls itself {name!r}, as an option of `bytelm eval` does; "
                "give it another name."
            )
    fields: list[Any] = [
        (name, kind, dataclasses.field(default_factory=kind))
        for name, kind in Evaluation.variants.items()
        if dataclasses.fields(kind)  # type: ignore[arg-type]
    ]
    said = {"__doc__": EvalCommand.__doc__}
    return dataclasses.make_dataclass(
        "EvalCommand", fields, bases=(EvalCommand,), namespace=said, frozen=True
    )


def _listed() -> str:
    """All evaluations, with what they measure and need."""
    lines = []
    for name, kind in Evaluation.variants.items():
        needs = ", ".join(need.words for need in kind.needs)
        lines.append(f"  {name:13} {kind.measures()}\n{'':16}needs {needs or 'any model'}")
    return "\n".join(["evaluations for `bytelm eval --suite NAME...`:\n", *lines])


def _evaluate(loaded: LoadedModel, command: EvalCommand, *, keep: bool) -> None:
    """Evaluates a model, and prints the report, also if it cannot be written; `keep` writes it."""
    data = command.data
    _check_tokenizer(loaded, data.task.tokenizer)
    suite = _chosen(loaded, command)
    text = evaluation_text(loaded, data, command.split) if reads_text(suite) else None
    if command.mesh != loaded.config.mesh.as_fits():
        loaded = loaded.with_mesh(command.mesh)
    report = evaluate(
        loaded.with_context(data.sequence_length),
        text,
        suite,
        stride=command.stride,
        batch_size=command.batch_size,
        max_bytes=command.max_bytes,
    )
    if not keep:
        print_report(report)
        return
    content = report.to_json()
    if text is not None:
        content["data"] = {"split": text.split, **to_dict(text.config)}
    try:
        path = command.checkpoint / _report_name(loaded, command, suite, text)
        output = write_report(content, command.output, path)
        page = output.with_suffix(".html")
        write_whole(page, report_page(report, command_line()))
    except OSError as error:
        print_report(report)
        raise UserError(
            f"the report above could not be written ({error.strerror}); name a file that can be "
            "with --output."
        ) from error
    print_report(report)  # after writing it: the reader of our output, such as head, may end early
    say(f"report: {printable_name(output)} and {printable_name(page.name)}")


def _chosen(loaded: LoadedModel, command: EvalCommand) -> list[Evaluation]:
    """The chosen evaluations, with their options."""
    evaluations = map(named, _names(command) or default_suite(loaded))
    return [getattr(command, evaluation.name, evaluation) for evaluation in evaluations]


def _names(command: EvalCommand) -> tuple[str, ...]:
    """The names of the suite, which may also be joined by commas; tasks of the harness add it."""
    names = tuple(name for part in command.suite for name in part.split(",") if name)
    tasks = getattr(command, Harness.name).tasks
    return (*names, Harness.name) if tasks and Harness.name not in names else names


def _whole_names(arguments: Sequence[str]) -> list[str]:
    """The arguments with the names that options of the harness have in their class."""
    whole = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        whole.append(SHORT.get(name, name) + equals + value)
    return whole


def _report_name(
    loaded: LoadedModel,
    command: EvalCommand,
    suite: Sequence[Evaluation],
    text: SplitText | None,
) -> str:
    source = "" if text is None or text.is_run_text else f"{text.data.names[0]}-"
    return report_name(
        loaded.step,
        "" if text is None else source + text.label,
        command.data if text is None else text.config,
        loaded.config.data,
        suite="-".join(_names(command)) or None,
        stride=command.stride,
        max_bytes=command.max_bytes,
        **{
            f"{each.name}.{field.name}": getattr(each, field.name)
            for each in suite
            for field in dataclasses.fields(each)  # type: ignore[arg-type]
            if getattr(each, field.name) != getattr(type(each)(), field.name)
        },
    )


def _check_tokenizer(loaded: LoadedModel, path: str | None) -> None:
    """Raises UserError if `data.tokenizer` is not the one that the model was trained with."""
    if path is None or path == loaded.config.data.task.tokenizer:
        return
    if loaded.tokenizer is None:
        raise UserError(
            f"data.tokenizer is {path}, and the model's symbols are bytes; leave it out."
        )
    if load_tokenizer(path).digest != loaded.tokenizer.digest:
        raise UserError(
            f"{path} is not the tokenizer that the model was trained with; leave out "
            "data.tokenizer, since the run has its own."
        )
