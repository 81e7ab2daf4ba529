"""`bytelm compare`."""

from collections.abc import Sequence
from pathlib import Path

from bytelm.cli.arguments import parse, preset_argument
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import say
from bytelm.training.presets import comparison_names, find_file, run_file, some_names


def compare_command(arguments: Sequence[str]) -> int:
    """Trains models at equal budgets and reports how they compare.

    `bytelm compare COMPARISON [options]`
    """
    name, rest = preset_argument(arguments, compare_command, "comparison", comparison_names)
    if name is None:
        raise UserError(f"name a comparison first{some_names(comparison_names())}.")
    from bytelm.experiments.compare import CompareCommand, ComparisonPlan, run_comparison
    from bytelm.experiments.comparison import Comparison

    path = find_file(name, "comparison", comparison_names())
    comparison = run_file(path, "comparison", Comparison)
    command = parse(CompareCommand, rest, f"compare {name}", CompareCommand())
    output = command.output or Path("runs/comparison") / Path(name).stem
    if command.tasks:
        plan = ComparisonPlan(comparison, output, command.root)
        say(f"{len(plan.sweep)} {plan.count()}")
        return 0
    return run_comparison(comparison, output, root=command.root, task=command.task)
