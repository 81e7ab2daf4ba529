"""A run while it trains: its state, its steps, and saving it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from bytelm.core.errors import UserError
from bytelm.data.loader import TrainLoader
from bytelm.models import Batch
from bytelm.nn.mesh import place_batch
from bytelm.training.checkpoints.checkpoint import Checkpoints
from bytelm.training.distributed import StopRequest, gather_json
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.loop_state import LoopState
from bytelm.training.metrics.display import format_duration
from bytelm.training.program import TrainProgram
from bytelm.training.reporter import Reporter
from bytelm.training.run_directory import RunFiles
from bytelm.training.score import StepMetrics
from bytelm.training.step import TrainState


@dataclass
class TrainingRun:
    """A run between two steps.

    Attributes:
        batches: the rows of this process.
        files: None in a process that writes no files.
        provenance: of its checkpoints.
        step: steps done.
        is_stopping: whether it ends before all steps are done.
    """

    config: ExperimentConfig
    run_dir: Path
    mesh: jax.sharding.Mesh
    program: TrainProgram
    batches: TrainLoader
    checkpoints: Checkpoints
    reporter: Reporter
    files: RunFiles | None
    stop: StopRequest
    provenance: dict[str, Any]
    state: TrainState
    loop: LoopState
    step: int
    is_stopping: bool = False

    def __post_init__(self) -> None:
        self._first_step = self.step
        self._pending: tuple[int, StepMetrics] | None = None
        self._failure: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.train.steps

    def check_stop(self) -> None:
        """Sets `is_stopping` if a batch could not be read or a signal came."""
        failed = self._failure is not None
        self.is_stopping = failed or (not self.is_done and self.stop.agreed())

    def next_batch(self) -> Batch | None:
        """The next batch; None if it cannot be read: then the run should be saved and end.

        One of several processes cannot save without the others, and ends at once.
        """
        try:
            return place_batch(next(self.batches), self.mesh)
        except Exception as error:  # of readers and their worker processes
            if jax.process_count() > 1:
                raise self._reading_failed(error) from None
            self._failure = error
            return None

    def raise_failure(self) -> None:
        """Raises the error of the batch that could not be read, if any."""
        if self._failure is not None:
            self.checkpoints.wait()
            raise self._reading_failed(self._failure) from None

    def advance(self, batch: Batch) -> None:
        """Trains one step, and collects the metrics of the step before."""
        is_first = self.step == self._first_step
        if is_first:
            self._compile(batch)
        self.state, metrics = self.program.train(self.state, batch)
        self.step += 1
        if is_first:
            self.stop.defer(self.reporter.message)
        self.collect()
        self._pending = (self.step, metrics)
        # Other devices compute the next step while the metrics of the last are fetched. A CPU would
        # compute it in this thread, and its time would count to this record.
        if self.mesh.devices.flat[0].platform == "cpu":
            self.collect()

    def collect(self) -> None:
        """Fetches and reports the metrics of the last step, once."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        fetched: StepMetrics = jax.device_get(metrics)
        if fetched.skipped_in_row >= self.config.train.max_skipped:
            raise self._too_many_skipped(step)
        self.reporter.add(step, fetched)

    def save(self) -> None:
        """Writes a checkpoint, unless there is one of this step."""
        loop, last = self.loop, self.checkpoints.last_step
        if self.step in (0, last):
            return
        self.collect()
        with loop.record.paused():
            # The resumed run calls the hooks that a stop leaves out.
            hooks_step = loop.hooks_step if self.is_stopping else self.step
            is_validated = loop.validated_step == self.step
            self.checkpoints.save(
                self.step,
                self.state,
                data={"positions": gather_json(self.batches.state())},
                config=self.config,
                provenance={**self.provenance, "data_fingerprint": self.batches.fingerprint},
                loop={**loop.saved(), "hooks_step": hooks_step},
                validation_bits=loop.last_validation if is_validated else None,
            )
            if self.files:
                self.files.restore_if_removed()

    def _compile(self, batch: Batch) -> None:
        """Compiles the training step, so that its time does not count to the first step."""
        self.reporter.message("compiling the training step")
        begin = time.perf_counter()
        self.program.lower_train(self.state, batch).compile()
        seconds = time.perf_counter() - begin
        self.reporter.message(f"compiled in {format_duration(seconds)}")
        self.loop.compile_seconds += seconds
        self.loop.record.resume()

    def _too_many_skipped(self, step: int) -> UserError:
        self.checkpoints.wait()
        last = self.checkpoints.last_step
        advice = (
            "there is no checkpoint yet: lower the learning rate and start again"
            if last is None
            else f"the last good checkpoint is that of step {last} in {self.checkpoints.folder}: "
            "lower the learning rate, then use --resume --allow-config-change"
        )
        return UserError(
            f"{self.config.train.max_skipped} steps in a row, up to step {step}, had a loss or "
            f"gradient that is not finite; the run stops; {advice}."
        )

    def _reading_failed(self, error: Exception) -> Exception:
        """A UserError for bad text, files or workers; otherwise the error itself."""
        if not isinstance(error, UserError | OSError):
            return error
        message = f"the next batch could not be read: {str(error).rstrip('.')}."
        if (last := self.checkpoints.last_step) is not None:
            message += (
                f" The run stops with its checkpoint of step {last} in {self.run_dir}; continue "
                "with --resume."
            )
        return UserError(message)
