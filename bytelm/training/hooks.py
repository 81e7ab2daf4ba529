"""What happens between two steps: validation, checkpoints, samples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bytelm.training.run import TrainingRun
from bytelm.training.samples import Sampler, on_one_device
from bytelm.training.validation import Validation


@dataclass(frozen=True)
class Hook:
    """Something to do after every so many steps, and after the last one.

    Attributes:
        action: called with the run.
        every: steps from one call to the next.
        when_stopping: whether a run that is to stop calls it too; others are called when the run is
            resumed.
    """

    action: Callable[[TrainingRun], None]
    every: int = 1
    when_stopping: bool = False

    def is_due(self, run: TrainingRun) -> bool:
        """Whether to call it after the last step that was done."""
        if run.is_stopping:
            return self.when_stopping
        is_new = run.step > run.loop.hooks_step
        return is_new and (run.is_done or run.step % self.every == 0)


def standard_hooks(validation: Validation, sampler: Sampler | None, every: int) -> list[Hook]:
    """The hooks of every run, in their order: samples, which may take long, after the checkpoint.

    Args:
        validation: called every so many steps.
        sampler: likewise; None for no samples.
        every: steps between two validations.
    """
    hooks = [
        Hook(partial(validate, validation), every),
        Hook(save_if_due, when_stopping=True),
    ]
    return hooks if sampler is None else [*hooks, Hook(partial(show_sample, sampler), every)]


def validate(validation: Validation, run: TrainingRun) -> None:
    """Validates the run; where it is asked to stop meanwhile, it does not, and stops."""
    run.collect()
    with run.loop.record.paused():
        found = validation(run.state.params, run.stop.agreed_midway)
        if found is None:
            run.is_stopping = True
            return
        run.loop.validated(run.step, found.bits)
        run.reporter.report(run.step, found.figures)
        run.reporter.warn(run.step, found.sums, "in validation")


def save_if_due(run: TrainingRun) -> None:
    """Saves the run where `train.checkpoint_every` says, at its end, and when it is at its best."""
    is_regular = run.step % run.config.train.checkpoint_every == 0
    if is_regular or run.is_done or run.is_stopping or run.loop.best_step == run.step:
        run.save()


def show_sample(sampler: Sampler, run: TrainingRun) -> None:
    """Shows and writes what the model writes now."""
    if run.stop.agreed_midway():
        return
    with run.loop.record.paused():
        params = on_one_device(run.state.params, run.mesh)
        if run.reporter.writes:
            run.reporter.sample(run.step, sampler(params, run.step))
