"""`bytelm ablate`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bytelm.cli.arguments import parse, preset_argument
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import say
from bytelm.training.presets import ablation_names, find_file, run_file, some_names


def ablate_command(arguments: Sequence[str]) -> int:
    """Trains and tests the points of an ablation.

    `bytelm ablate ABLATION [options]`
    """
    name, rest = preset_argument(arguments, ablate_command, "ablation", ablation_names)
    if name is None:
        raise UserError(f"name an ablation first{some_names(ablation_names())}.")
    from bytelm.experiments.ablate import AblateCommand, AblationPlan, run_ablation
    from bytelm.experiments.ablation import Ablation

    ablation = run_file(find_file(name, "ablation", ablation_names()), "ablation", Ablation)
    default = AblateCommand(
        ablation.base, ablation.baseline, ablation.seeds, ablation.learning_rates
    )
    command = parse(AblateCommand, rest, f"ablate {name}", default)
    ablation = dataclasses.replace(
        ablation,
        base=command.config,
        baseline=command.baseline,
        seeds=command.seeds,
        learning_rates=command.learning_rates,
    )
    output = command.output or Path("runs/ablations") / Path(name).stem
    if command.tasks:
        plan = AblationPlan(ablation, output)
        say(f"{len(plan.sweep)} {plan.count()}")
        return 0
    return run_ablation(ablation, output, max_bytes=command.max_bytes, task=command.task)
