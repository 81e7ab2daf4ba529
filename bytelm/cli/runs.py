"""`bytelm runs`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bytelm.cli.arguments import parse
from bytelm.core.errors import UserError
from bytelm.core.places import place
from bytelm.core.terminal_text import printable_name, say
from bytelm.experiments.run_list import Order, as_json, as_table, chosen, find_runs
from bytelm.training.run_status import State

USUAL = "runs"
"""The folder of runs that `bytelm train` makes without --run-dir."""


@dataclass(frozen=True)
class RunsCommand:
    """Lists runs with their state, step, best validation, speed and last error.

    running: a process works on it. waiting: planned by an ablation or a comparison, and not begun.
    stopped: it can be resumed. failed: an error ended it. damaged: it cannot be read or resumed as
    it is. done: trained to its end. Nothing is changed.
    """

    state: tuple[State, ...] = ()
    """Only runs in these states."""
    name: tuple[str, ...] = ()
    """Only runs whose path has one of these in it, or is like one of these patterns ('*-s0')."""
    sort: Order = "name"
    """By what to sort: running ones, the most steps, the fewest validation bits, the highest speed
    or the latest progress come first."""
    reverse: bool = False
    """Sort the other way round."""
    json: bool = False
    """Print a list of JSON objects."""


def runs_command(arguments: Sequence[str]) -> int:
    """Lists runs with their state, step, best validation, speed and last error.

    `bytelm runs [FOLDER...] [--state STATE...] [--sort COLUMN] [options]`
    """
    named = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    command = parse(RunsCommand, arguments[len(named) :], "runs [FOLDER...]")
    folders = [place(name) for name in named or [USUAL]]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; name folders that hold runs.")
    # A folder may be named twice, also in two spellings.
    found = {status.run.resolve(): status for folder in folders for status in find_runs(folder)}
    runs = chosen(
        list(found.values()),
        states=command.state,
        names=command.name,
        order=command.sort,
        reverse=command.reverse,
    )
    if command.json:
        say(as_json(runs))
    elif runs:
        say(as_table(runs))
    else:
        where = " ".join(printable_name(str(folder)) for folder in folders)
        say(f"none of the {len(found)} runs in {where} is such" if found else f"no runs in {where}")
    return 0
