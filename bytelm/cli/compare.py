"""`bytelm compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bytelm.cli.arguments import name_argument, parse
from bytelm.cli.options import Place
from bytelm.core.terminal_text import say
from bytelm.training.presets import comparison_names, find_file, run_file


@dataclass(frozen=True)
class CompareCommand:
    """Trains, tests and reports the runs of a comparison; finished runs are kept, and several
    processes share the others.
    """

    root: Place = Path()
    """Directory to which the paths of the comparison are relative."""
    output: Place | None = None
    """Where runs and report go; none = runs/comparison/NAME."""
    task: int | None = None
    """Do only the run of this number, then call without it. Without this option, the same command
    started several times shares the runs (docs/clusters.md)."""
    tasks: bool = False
    """Print the number of tasks in the sweep of learning rates, and in all."""


def compare_command(arguments: Sequence[str]) -> int:
    """Trains models at equal budgets and reports how they compare.

    `bytelm compare COMPARISON [options]`
    """
    name, rest = name_argument(arguments, compare_command, "comparison", comparison_names)
    from bytelm.experiments.compare import run_comparison
    from bytelm.experiments.comparison import Comparison
    from bytelm.experiments.contenders import count_tasks

    path = find_file(name, "comparison", comparison_names())
    comparison = run_file(path, "comparison", Comparison)
    command = parse(CompareCommand, rest, f"compare {name}", CompareCommand())
    if command.tasks:
        say(" ".join(map(str, count_tasks(comparison))))
        return 0
    output = command.output or Path("runs/comparison") / Path(name).stem
    return run_comparison(comparison, output, root=command.root, task=command.task)
