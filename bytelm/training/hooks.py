"""Hooks between two steps: validation, checkpoints, samples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bytelm.training.run import TrainingRun
from bytelm.training.samples import Sampler, on_one_device
from bytelm.training.validation import Validation


@dataclass(frozen=True)
class Hook:
    """An action after every so many steps, and after the last one.

    Attributes:
        when_stopping: whether a run that stops calls it; if not, the resumed run does.
    """

    action: Callable[[TrainingRun], None]
    every: int = 1
    when_stopping: bool = False

    def is_due(self, run: TrainingRun) -> bool:
        """Whether to call it after the run's last step."""
        if run.is_stopping:
            return self.when_stopping
        is_new = run.step > run.loop.hooks_step
        return is_new and (run.is_done or run.step % self.every == 0)


def standard_hooks(validation: Validation, sampler: Sampler | None, every: int) -> list[Hook]:
    """The hooks of every run: samples, which may take long, come after the checkpoint.

    Args:
        sampler: None for no samples.
        every: steps between two validations, and two samples.
    """
    hooks = [
        Hook(partial(validate, validation), every),
        Hook(save_if_due, when_stopping=True),
    ]
    return hooks if sampler is None else [*hooks, Hook(partial(show_sample, sampler), every)]


def validate(validation: Validation, run: TrainingRun) -> None:
    """Validates the run, unless it has to stop meanwhile."""
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
    """Saves the run every `train.checkpoint_every` steps, at its end, and when it is the best."""
    is_regular = run.step % run.config.train.checkpoint_every == 0
    if is_regular or run.is_done or run.is_stopping or run.loop.best_step == run.step:
        run.save()


def show_sample(sampler: Sampler, run: TrainingRun) -> None:
    """Shows and writes a sample."""
    if run.stop.agreed_midway():
        return
    with run.loop.record.paused():
        params = on_one_device(run.state.params, run.mesh)
        if run.reporter.writes:
            run.reporter.sample(run.step, sampler(params, run.step))
