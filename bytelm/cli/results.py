"""`bytelm results`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bytelm.cli.arguments import parse
from bytelm.cli.options import Place
from bytelm.cli.usage import HELP
from bytelm.core.errors import UserError
from bytelm.core.files import check_new_file, write_whole
from bytelm.core.places import place
from bytelm.core.terminal_text import printable_name, say
from bytelm.evaluation.page.drawing import write_png
from bytelm.experiments.results.collect import collect
from bytelm.experiments.results.rows import curves, results
from bytelm.experiments.results.write import ENDINGS, Format, text_of


@dataclass(frozen=True)
class ResultsCommand:
    """Collects runs and their evaluations into one table, with differences from a baseline."""

    format: Format | None = None
    """The form of the table; none = by the ending of --output (.md, .csv, .tex, .html), or
    markdown."""
    output: Place | None = None
    """File for the table; none = printed."""
    baseline: str | None = None
    """Name of a run; the others' differences from it are shown, paired by document."""
    columns: tuple[str, ...] = ()
    """Config options and figures to show, or patterns such as 'perturbed/*/bpb'; none = the options
    that differ, and all figures without a slash (CSV: all)."""
    curves: Place | None = None
    """Also draw validation during training into this PNG file."""
    overwrite: bool = False
    """Let --output and --curves replace a file."""


def results_command(arguments: Sequence[str]) -> int:
    """Collects runs and their evaluations into one table, with differences from a baseline.

    `bytelm results FOLDER... [--baseline RUN] [--output FILE] [options]`
    """
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    command = parse(ResultsCommand, arguments[len(words) :], "results FOLDER...")
    if not words and not HELP & set(arguments):
        raise UserError("name folders that hold runs first: `bytelm results FOLDER...`.")
    for option, path in (("--output", command.output), ("--curves", command.curves)):
        if path and path.is_file() and not command.overwrite:
            raise UserError(
                f"{path} exists; add --overwrite to replace it, or choose another {option}."
            )
        if path and not path.is_file():
            check_new_file(path, option)
    if command.curves and command.curves.suffix != ".png":
        raise UserError(f"--curves {command.curves} is drawn as PNG; give it the ending .png.")
    runs, rows = collect([place(word) for word in words])
    found = results(runs, rows, baseline=command.baseline, columns=command.columns)
    text = text_of(found, _format(command))
    if command.curves:
        write_png(curves(runs), command.curves)
        say(f"curves: {printable_name(command.curves)}")
    if command.output is None:
        say(text.rstrip("\n"))
        return 0
    write_whole(command.output, text)
    say(f"results of {len(runs)} runs: {printable_name(command.output)}")
    return 0


def _format(command: ResultsCommand) -> Format:
    if command.format is not None:
        return command.format
    if command.output is None:
        return "markdown"
    if command.output.suffix not in ENDINGS:
        raise UserError(
            f"--output {command.output} has none of the endings {', '.join(ENDINGS)}; give it one, "
            "or say --format."
        )
    return ENDINGS[command.output.suffix]
