"""Runs an ablation: the sweep of learning rates, the runs, their tests and the report."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bytelm.core.config_json import differences, to_dict
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.terminal_text import command_line
from bytelm.data.open_data import OpenData
from bytelm.experiments.ablation import Ablation
from bytelm.experiments.contenders import changed
from bytelm.experiments.measurements import measure_run
from bytelm.experiments.plan import Plan
from bytelm.experiments.records import Heading, run_figures
from bytelm.experiments.runs import Run, RunResult
from bytelm.training.cost import row_flops, step_flops, with_steps
from bytelm.training.entropy_models import with_entropy_model
from bytelm.training.hardware import describe_machine


def run_ablation(
    ablation: Ablation, output: Path, *, max_bytes: int | None = None, task: int | None = None
) -> int:
    """Trains and tests every run of each contender, and compares the contenders.

    Finished runs are kept, interrupted ones are resumed, and a run that fails does not stop the
    others. After each run the report in `output` is rewritten, its images at the end.

    Args:
        ablation: what to run.
        output: directory of the report and the runs.
        max_bytes: bytes that are tested on, the last document cut; None for the whole test split.
        task: number of the only run to do; None for all.

    Returns:
        an exit status: 0, 1 if a run failed, 143 if a signal asked to stop.

    Raises:
        UserError: if a run's directory holds a run of another config; nothing is run then.
    """
    return AblationPlan(ablation, output, max_bytes).execute(task)


def ablation_runs(ablation: Ablation, output: Path) -> list[Run]:
    """All runs of an ablation, at every learning rate."""
    runs = []
    for contender, config in ablation.configs.items():
        config = with_entropy_model(config)
        with contextlib.suppress(UserError):  # the run itself fails for that reason, others go on
            config = with_steps(config, OpenData(config.data))
        flops = step_flops(config)
        symbols = config.data.batch_size * config.data.sequence_length
        for multiple in ablation.learning_rates:
            rate = config.optimizer.learning_rate * multiple
            for seed in ablation.seeds or (config.train.seed,):
                own = changed(config, {"optimizer.learning_rate": rate, "train.seed": seed})
                directory = output / ablation.run_name(contender, multiple, seed)
                runs.append(Run(directory, contender, seed, multiple, own, flops, symbols))
    return runs


class AblationPlan(Plan):
    """The runs of an ablation, and their outcomes."""

    def __init__(self, ablation: Ablation, output: Path, max_bytes: int | None = None):
        measure = "bits_per_target_byte" if ablation.has_encoder else "bpb"
        super().__init__(output, ablation_runs(ablation, output), measure=measure)
        self.ablation, self.max_bytes = ablation, max_bytes

    def test(self, run: Run) -> RunResult:
        """Bits of the test split."""
        return measure_run(run, self.max_bytes)

    def asked(self, run: Run) -> Mapping[str, Any]:
        """The size of the test."""
        return {"max_bytes": self.max_bytes, "by_document": True}

    def figures(self, run: Run, result: RunResult) -> Mapping[str, Figure]:
        """Also the FLOPs of a row's forward pass with all slots, per byte, and the inputs kept."""
        values = {"forward_flops_per_byte": row_flops(run.config) / run.config.data.sequence_length}
        if "deleted" in result.figures:
            values["kept"] = 1 - result.figures["deleted"].value
        return {**super().figures(run, result), **run_figures(values)}

    def heading(self) -> Heading:
        """With the changes of each contender."""
        base = to_dict(self.ablation.base)
        changes = {
            name: {path: new for path, _, new in differences(base, to_dict(config))}
            for name, config in self.ablation.configs.items()
        }
        return Heading(
            title="Ablation",
            axis="steps",
            baseline=self.ablation.reference,
            command=command_line(),
            machine=describe_machine(),
            measure=self.measure,
            sweep=self.sweep_rows(),
            changes=changes,
            same_seeds=bool(self.ablation.seeds),
        )
