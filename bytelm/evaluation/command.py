"""What `bytelm eval` does once its options are read: it scores, keeps the report, and shows it."""

from collections.abc import Callable
from typing import Any

from bytelm.api import LoadedModel
from bytelm.cli.options import EvalCommand
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import printable_name, say
from bytelm.evaluation.report import evaluate, print_report
from bytelm.evaluation.report_file import report_name, write_report
from bytelm.evaluation.seen import EvaluationText, evaluation_text
from bytelm.evaluation.targets import evaluate_targets, print_target_report
from bytelm.training.experiment import to_dict


def evaluate_run(loaded: LoadedModel, command: EvalCommand, *, keep: bool) -> None:
    """Scores the text that the options name.

    Args:
        loaded: the model of the run.
        command: the options.
        keep: whether to write the report.

    Raises:
        UserError: for a bad source, or a report that cannot be written; it is shown before.
    """
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
    loaded: LoadedModel, text: EvaluationText, command: EvalCommand
) -> tuple[dict[str, Any], Callable[[Any], None]]:
    """The report on a text, and what shows it."""
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
