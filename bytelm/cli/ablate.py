"""`bytelm ablate`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bytelm.cli.arguments import name_argument, parse
from bytelm.cli.options import Count, Place
from bytelm.core.terminal_text import say
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.presets import ablation_names, find_file, run_file


@dataclass(frozen=True)
class AblateCommand:
    """Trains and tests the contenders of an ablation; finished runs are kept, and several processes
    share the others.
    """

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    baseline: str | None = None
    """Contender that the others are compared with; none = the first."""
    seeds: tuple[int, ...] = ()
    """Run every contender with each of these seeds; none = the seed of its config."""
    learning_rates: tuple[float, ...] = (1.0,)
    """Multiples of its own learning rate that every contender tries, such as 0.5 1 2; the one with
    the fewest validation bits per byte is kept."""
    output: Place | None = None
    """Where the runs and the report go; none = runs/ablations/NAME."""
    max_bytes: Count | None = None
    """Test on the first so many bytes (with an encoder: inputs, in whole rows); none = all of the
    split."""
    task: int | None = None
    """Do only the run of this number, then call without it. Without this option, the same command
    started several times shares the runs (docs/clusters.md)."""
    tasks: bool = False
    """Print the number of tasks in the sweep of learning rates, and in all."""


def ablate_command(arguments: Sequence[str]) -> int:
    """Trains and tests the contenders of an ablation.

    `bytelm ablate ABLATION [options]`
    """
    name, rest = name_argument(arguments, ablate_command, "ablation", ablation_names)
    from bytelm.experiments.ablate import run_ablation
    from bytelm.experiments.ablation import Ablation
    from bytelm.experiments.contenders import count_tasks

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
    if command.tasks:
        say(" ".join(map(str, count_tasks(ablation))))
        return 0
    output = command.output or Path("runs/ablations") / Path(name).stem
    return run_ablation(ablation, output, max_bytes=command.max_bytes, task=command.task)
