"""The training loop: one program for every family, device and number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from bytelm.core import fallible_output
from bytelm.core.errors import UserError
from bytelm.training.compatibility import check_checkpoints_are_there
from bytelm.training.distributed import StopRequest
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.hooks import Hook
from bytelm.training.run import TrainingRun
from bytelm.training.start import Start, resolved, start_run


@dataclass(frozen=True)
class TrainResult:
    """How a run ended; it is `interrupted` if it ended before its last step."""

    run_dir: Path
    step: int
    validation_bits: float | None
    interrupted: bool


def train(
    config: ExperimentConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    step: int | None = None,
    verify: bool = True,
    allow_config_change: bool = False,
) -> TrainResult:
    """Trains a model, from the beginning or from the last checkpoint in `run_dir`.

    After the first step, each of `bytelm.core.stopping.SIGNALS` ends the run after the current step
    with a checkpoint. If output or metrics cannot be written, it continues with a warning.

    Args:
        step: the checkpoint to resume from; None for the last one that can be read. Later ones
            are set aside.
        verify: whether to compare checkpoints with their digests.

    Raises:
        UserError: for a config that cannot run here, a run that cannot be resumed, a full disk,
            text that cannot be read (after a checkpoint), or `train.max_skipped` steps in a row
            without a finite loss and gradient.
        Stopped: for a signal before the end of the first step.
    """
    config, data = resolved(config, run_dir, resume=resume)
    if step is not None and not resume:
        raise UserError(f"--step {step} says where to resume; add --resume.")
    if resume:
        check_checkpoints_are_there(run_dir, step)
    mesh = config.mesh.build()
    with fallible_output.may_fail(), jax.set_mesh(mesh), StopRequest(mesh) as stop:
        run, hooks = start_run(
            config, data, run_dir, mesh, stop, Start(resume, step, verify, allow_config_change)
        )
        try:
            with run.reporter:
                train_steps(run, hooks)
            if not stop.requested:
                run.raise_failure()
            run.checkpoints.close()
        finally:
            run.batches.close()
        return TrainResult(run_dir, run.step, run.loop.last_validation, run.is_stopping)


def train_steps(run: TrainingRun, hooks: Sequence[Hook]) -> None:
    """Trains until the run is done or has to stop, with the hooks between two steps."""
    while True:
        run.check_stop()
        for hook in hooks:
            if hook.is_due(run):
                hook.action(run)
        if run.is_done or run.is_stopping:
            return
        run.loop.hooks_step = run.step
        batch = run.next_batch()
        if batch is not None:
            run.advance(batch)
