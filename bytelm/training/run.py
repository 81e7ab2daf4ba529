"""A run while it trains: its steps, and the hooks between them, which validate, save and sample."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.vocabulary import BYTES
from bytelm.data.loader import TrainLoader
from bytelm.data.open_data import OpenData
from bytelm.inference.generation import Generator
from bytelm.inference.transduction import Transducer
from bytelm.models import Batch
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.nn.mesh import place_batch, single_device_mesh
from bytelm.training.checkpoints.checkpoint import Checkpoints
from bytelm.training.checkpoints.exported import SavedModel
from bytelm.training.distributed import StopRequest, gather_json
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.metrics.display import Display, Reporter, format_duration
from bytelm.training.metrics.record import LoopState
from bytelm.training.program import TrainProgram
from bytelm.training.run_directory import CONFIG
from bytelm.training.step import StepMetrics, TrainState
from bytelm.training.validation import Validation

Found = Mapping[str, Sequence[Figure]]
"""Figures by the name of their evaluation."""
Evaluator = Callable[[SavedModel], Found]
"""Runs `train.evaluations` on the model as it is."""
MakeEvaluator = Callable[[SavedModel, OpenData], Evaluator]
"""Checks `train.evaluations` for a model, whose parameters may be abstract, and its data."""
SAMPLE_INPUTS = 3
"""How many inputs of the validation text a sample shows with their targets."""


@dataclass
class RunParts:
    """What a run has before it has a state, and a dry run too.

    Attributes:
        batches: the rows of this process.
        facts: for its header (`bytelm.training.cost.run_facts`).
    """

    config: ExperimentConfig
    data: OpenData
    run_dir: Path
    mesh: Mesh
    program: TrainProgram
    batches: TrainLoader
    validation: Validation
    facts: dict[str, Any]
    display: Display


@dataclass
class TrainingRun(RunParts):
    """A run between two steps.

    Attributes:
        write_files: writes the files of its directory; None in a process that writes none.
        evaluator: None for no evaluations.
        provenance: of its checkpoints.
        step: steps done.
        is_stopping: whether it ends before all steps are done.
    """

    checkpoints: Checkpoints
    reporter: Reporter
    write_files: Callable[[], None] | None
    evaluator: Evaluator | None
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
            self.reporter.flush()
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
            if self.write_files and not (self.run_dir / CONFIG).exists():
                self.write_files()  # the directory was removed

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


@dataclass(frozen=True)
class Hook:
    """An action after every so many steps, and after the last one."""

    action: Callable[[TrainingRun], None]
    every: int = 1
    when_stopping: bool = False
    """Whether a run that stops calls it; if not, the resumed run does."""

    def is_due(self, run: TrainingRun) -> bool:
        """Whether to call it after the run's last step."""
        if run.is_stopping:
            return self.when_stopping
        is_new = run.step > run.loop.hooks_step
        return is_new and (run.is_done or run.step % self.every == 0)


def standard_hooks(train: TrainConfig, *, samples: bool) -> list[Hook]:
    """The hooks of every run: samples, if any, may take long and come after the checkpoint.

    Evaluations come before it, so that a run that is killed meanwhile repeats them.
    """
    hooks = [Hook(validate, train.validate_every)]
    hooks += [Hook(evaluate, train.evaluate_every)] if train.evaluations else []
    hooks += [Hook(save_if_due, when_stopping=True)]
    return [*hooks, Hook(show_sample, train.validate_every)] if samples else hooks


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


def validate(run: TrainingRun) -> None:
    """Validates the run, unless it has to stop meanwhile."""
    run.collect()
    with run.loop.record.paused():
        found = run.validation(run.state.params, run.stop.agreed)
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


def show_sample(run: TrainingRun) -> None:
    """Shows and writes a sample of at most `train.sample_bytes`."""
    if run.stop.agreed():
        return
    with run.loop.record.paused():
        params = _gathered(run)
        if run.write_files:
            with jax.set_mesh(single_device_mesh()):
                text = _sample(run, params)
            run.reporter.sample(run.step, text.decode("utf-8", "replace"))


def evaluate(run: TrainingRun) -> None:
    """Runs `train.evaluations`, which need a single process."""
    assert run.evaluator is not None
    run.collect()
    with run.loop.record.paused():
        model = model_of(run, _gathered(run), run.step)
        with jax.set_mesh(single_device_mesh()):
            found = run.evaluator(model)
        run.reporter.evaluated(run.step, found)


def model_of(run: RunParts, params: Any, step: int) -> SavedModel:
    """The model of a run with these parameters, as if it were loaded."""
    graphdef, tokenizer = run.program.graphdef, run.data.tokenizer
    return SavedModel(run.config, step, graphdef, params, {}, tokenizer=tokenizer, run=run.run_dir)


def _gathered(run: TrainingRun) -> Any:
    """The parameters on one device of each process; all processes gather them."""
    whole = jax.tree.map(lambda _: NamedSharding(run.mesh, PartitionSpec()), run.state.params)
    gathered = jax.jit(lambda params: params, out_shardings=whole)(run.state.params)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), gathered)


def _sample(run: TrainingRun, params: Any) -> bytes:
    """A text from the empty prompt; with an encoder, the likeliest targets of a few inputs."""
    graphdef, most = run.program.graphdef, run.config.train.sample_bytes
    if not isinstance(run.config.model, EncoderDecoderConfig):
        generator = Generator(graphdef, params, tokenizer=run.data.tokenizer)
        return generator.generate([b""], max_bytes=most, seed=run.step)[0]
    text = run.validation.text
    rows = next(text.batches(text.sources[0])).inputs[:SAMPLE_INPUTS]
    inputs = [row[row < BYTES].astype(np.uint8).tobytes() for row in rows]
    most = min(most, run.config.data.row_length)
    targets = Transducer(graphdef, params).greedy(inputs, max_bytes=most)
    return b"\n".join(b"%s -> %s" % pair for pair in zip(inputs, targets, strict=True))
