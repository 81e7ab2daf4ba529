"""`bytelm eval`: its options and what it does."""

import argparse
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytelm.cli.arguments import parse
from bytelm.cli.option_checks import Count
from bytelm.cli.source_options import with_named_source
from bytelm.core.config_json import to_dict
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import printable_name, say
from bytelm.data.config import DataConfig
from bytelm.training.checkpoints.chosen_step import Step

if TYPE_CHECKING:  # what takes long to import is imported when the options are read
    from bytelm.api import LoadedModel
    from bytelm.evaluation.seen import EvaluationText


@dataclass(frozen=True)
class EvalCommand:
    """Scores a checkpoint: exact bits per byte over whole documents."""

    data: DataConfig
    checkpoint: Path
    """The run directory."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    verify: bool = True
    """Whether the checkpoint is compared with its digests."""
    split: str | None = None
    """Which split: train, validation or test; none = validation, or all documents of other
    --data.files. Documents that the run read keep the splits that they had there."""
    stride: Count | None = None
    """Symbols that each window scores, with the rest as context; none = half a row."""
    batch_size: Count = 16
    """Windows scored at once."""
    max_bytes: Count | None = None
    """Score so many bytes from the beginning: the last document is cut, and its END does not count;
    none = all of the split. With an encoder: stop after the row that reaches so many inputs."""
    output: Path | None = None
    """The new file of the JSON report; none = in the run directory, named after the settings."""
    byte_marginal: bool = False
    """Also add up the probabilities of all tokenisations, for a subword model."""
    covers: Count = 32
    """With --byte-marginal: token histories that are kept at each byte; more are slower, and lose
    less."""


def eval_command(arguments: Sequence[str]) -> int:
    """Scores a checkpoint: exact bits per byte over whole documents.

    `bytelm eval --checkpoint RUN [options]`
    """
    from bytelm.api import load
    from bytelm.core.output_files import check_new_file
    from bytelm.training import host_memory
    from bytelm.training.checkpoints.chosen_step import step_of

    # The checkpoint's config is the default of the options, so it is needed to read them.
    first = argparse.ArgumentParser("eval", add_help=False, allow_abbrev=False)
    first.add_argument("--checkpoint", type=Path)
    first.add_argument("--step", type=step_of)
    first.add_argument("--output", type=Path)
    first.add_argument("--no-verify", action="store_false", dest="verify")
    known, _ = first.parse_known_args(list(arguments))
    if known.checkpoint is None:
        if {"-h", "--help"} & set(arguments):
            parse(EvalCommand, arguments, "eval", EvalCommand(DataConfig(), Path("RUN")))
        raise UserError("name the run to evaluate: --checkpoint RUN.")
    if known.output is not None:
        check_new_file(known.output)
    read_only = known.output is None and not os.access(known.checkpoint, os.W_OK)
    if read_only and known.checkpoint.is_dir():
        warnings.warn(
            f"{known.checkpoint} cannot be written to, so that the report is printed and not "
            "kept; name a file for it with --output.",
            stacklevel=2,
        )
    host_memory.keep()
    loaded = load(known.checkpoint, known.step, verify=known.verify)
    default = EvalCommand(with_named_source(loaded.config.data, arguments), known.checkpoint)
    command = parse(EvalCommand, arguments, "eval", default)
    evaluate_run(loaded, command, keep=not read_only)
    return 0


def evaluate_run(loaded: "LoadedModel", command: EvalCommand, *, keep: bool) -> None:
    """Scores the text that the options name.

    Args:
        loaded: the model of the run.
        command: the options.
        keep: whether to write the report.

    Raises:
        UserError: for a bad source, or a report that cannot be written; it is shown before.
    """
    from bytelm.evaluation.report_file import report_name, write_report
    from bytelm.evaluation.seen import evaluation_text

    data, trained_on = command.data, loaded.config.data
    loaded.context = data.sequence_length
    if data.tokenizer is not None and data.tokenizer != trained_on.tokenizer:
        loaded.check_tokenizer(data.tokenizer)
    text = evaluation_text(loaded, data, command.split)
    report, show = _report(loaded, text, command)
    report["data"] = {"split": text.split, **to_dict(text.config)}
    if not keep:
        show(report)
        return
    source = "" if text.is_run_text else f"{text.sources[0].name}-"
    name = report_name(
        loaded.step,
        source + text.label,
        text.config,
        trained_on,
        stride=command.stride,
        max_bytes=command.max_bytes,
        covers=command.covers if command.byte_marginal else None,
    )
    try:
        output = write_report(report, command.output, command.checkpoint / name)
    except OSError as error:
        show(report)
        raise UserError(
            f"the report above could not be written ({error.strerror}); name a file that can be "
            "with --output."
        ) from error
    show(report)  # after it is kept: whoever reads it may not read to its end
    say(f"report: {printable_name(output)}")


def _report(
    loaded: "LoadedModel", text: "EvaluationText", command: EvalCommand
) -> tuple[dict[str, Any], Callable[[Any], None]]:
    """The report on a text, and what shows it."""
    from bytelm.evaluation.report import evaluate, print_report
    from bytelm.evaluation.targets import evaluate_targets, print_target_report

    if loaded.has_encoder:
        report = evaluate_targets(
            loaded, text, batch_size=command.batch_size, max_bytes=command.max_bytes
        )
        return report, print_target_report
    report = evaluate(
        loaded,
        text,
        stride=command.stride,
        batch_size=command.batch_size,
        max_bytes=command.max_bytes,
        covers=command.covers if command.byte_marginal else None,
    )
    return report, print_report
