"""The training loop: one program for every family, device and number of processes."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from bytelm.core import fallible_output
from bytelm.core.atomic_write import write_whole
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.statistics import warnings
from bytelm.data.loader import train_loader
from bytelm.data.rows import open_tokenizer, open_unigram
from bytelm.inference.generation import missing_methods
from bytelm.models import Batch
from bytelm.nn.mesh import place_batch, row_share
from bytelm.tokenizers.carried import carry, with_copies
from bytelm.training.checkpoints.checkpoint import Checkpoints, last_step
from bytelm.training.compatibility import Start, check_change, check_checkpoints_are_there
from bytelm.training.distributed import StopRequest, gather_json
from bytelm.training.experiment import ExperimentConfig, as_saved, load_json, saved_form, to_json
from bytelm.training.hardware import peak_flops
from bytelm.training.header import describe_run, write_facts
from bytelm.training.initial import start_from
from bytelm.training.length import with_steps
from bytelm.training.metrics.display import Display, format_duration
from bytelm.training.metrics.record import SETTLED, Record
from bytelm.training.metrics.writer import MetricsWriter
from bytelm.training.program import build_program, step_flops
from bytelm.training.progress import Progress
from bytelm.training.provenance import provenance
from bytelm.training.rate_change import rate_change
from bytelm.training.samples import Sampler, on_one_device
from bytelm.training.score import StepMetrics, Sums
from bytelm.training.step import State
from bytelm.training.trained_text import keep_record
from bytelm.training.unreadable_text import reading_failed
from bytelm.training.validation import Validation

CONFIG = "config.json"
"""File of a run directory that holds the resolved config."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: after which step, with what validation, and whether it was asked to stop."""

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
    """Trains, from the beginning or from the last checkpoint in `run_dir`, and saves as it goes.

    Once the first step is done, each of `bytelm.core.stopping.SIGNALS` ends it after the current
    step with a checkpoint. Where output or metrics cannot be written, it goes on with a warning.

    Args:
        step: the checkpoint to resume from; None for the last one that can be read. Later ones
            are set aside.
        verify: whether to compare checkpoints with their digests before they are used.

    Raises:
        UserError: a config that cannot run here, a run that cannot be resumed, a disk that is
            full, text that cannot be read (after a checkpoint), or `train.max_skipped` steps in a
            row without a finite loss and gradient.
        Stopped: a signal before the end of the first step.
    """
    config = saved_form(config)
    config = with_steps(config, as_read(config, run_dir).data if resume else config.data)
    check_unused(run_dir, resume)
    if step is not None and not resume:
        raise UserError(f"--step {step} says where to resume; add --resume.")
    if resume:
        check_checkpoints_are_there(run_dir, step)
    mesh = config.mesh.build()
    with fallible_output.may_fail(), jax.set_mesh(mesh), StopRequest(mesh) as stop:
        run = _Run(config, run_dir, mesh, Start(resume, step, verify, allow_config_change))
        try:
            result = run.run(stop)
            run.checkpoints.close()
        finally:
            run.batches.close()
        return result


def check_unused(run_dir: Path, resume: bool) -> None:
    """Raises UserError if the directory holds a run that is not to be resumed."""
    if not resume and (run_dir / CONFIG).exists():
        raise UserError(
            f"{run_dir} already holds a run; add --resume to go on with it, or choose another "
            "--run-dir."
        )


def as_read(config: ExperimentConfig, run_dir: Path) -> ExperimentConfig:
    """The config with the copies that the run in the directory, if any, carries of files."""
    path = run_dir / CONFIG
    started = load_json(path).data if path.exists() else None
    return dataclasses.replace(config, data=with_copies(config.data, run_dir, started))


class _Run:
    """One run while it is training."""

    def __init__(
        self,
        config: ExperimentConfig,
        run_dir: Path,
        mesh: jax.sharding.Mesh,
        start: Start,
    ):
        self.config, self.run_dir, self.mesh = config, run_dir, mesh
        # The config says where files were; what is read is what the run carries of them.
        reading = as_read(config, run_dir) if start.resume else config
        self.program = build_program(reading, mesh)
        self.missing = missing_methods(self.program.graphdef)
        self.tokenizer = open_tokenizer(reading.data)
        share = row_share(config.data.batch_size, mesh)
        self.batches = train_loader(reading.data, config.train.seed, *share)
        self.validation = Validation(reading, self.program, mesh)
        self.sampler = Sampler(reading, self.program, self.tokenizer, self.validation)
        facts, header = describe_run(reading, self.program, mesh, self.validation, run_dir)
        self.display = Display(config.train.steps)
        self.display.message(header)
        self.notes: list[str] = []
        resuming = start.resume and last_step(run_dir) is not None
        if not resuming:
            self.state = self._first_state(start.verify)
        self.checkpoints = Checkpoints(run_dir, config.train.keep, self.validation.identity)
        self.step, self.progress, self.best = 0, Progress(), math.inf
        self.validated = 0
        self.last_validation: float | None = None
        self.record = Record()
        self.compiled = False
        self.warned: set[tuple[str, str]] = set()
        self.failure: Exception | None = None
        if resuming:
            self._restore(start)
        counted = ("parameters", "parameters_without_embeddings")
        self.provenance = provenance() | {name: facts[name] for name in counted}
        self.step_flops = step_flops(config)
        self.learning_rate = config.optimizer.learning_rates(config.train.steps)
        self.peak = peak_flops(config.model.dtype).flops_per_second * mesh.size
        self.is_main = jax.process_index() == 0
        if self.is_main:
            self.facts, self.unigram = facts, open_unigram(reading.data)
            self.text_record = keep_record(run_dir, config, resuming=resuming)
            self.provenance["text"] = self.text_record.sources
            self._write_files()

    def _write_files(self) -> None:
        """What a run directory tells of the run, and the files that it carries."""
        carry(self.run_dir, self.tokenizer, self.unigram)
        write_facts(self.facts, self.run_dir)
        write_whole(self.run_dir / CONFIG, to_json(self.config))

    def _first_state(self, verify: bool) -> State:
        config, shardings = self.config.train, self.program.shardings
        state = self.program.init(config.seed)
        if config.initial is None:
            return state
        params, listed = start_from(
            self.config,
            state["params"],
            shardings["params"],
            tokenizer=self.tokenizer,
            verify=verify,
        )
        if listed:
            self.notes.append(f"differs from train.initial {config.initial}: {'; '.join(listed)}")
        return {**state, "params": params}

    def _restore(self, start: Start) -> None:
        saved = self.checkpoints.config(start.step, verify=start.verify)
        here = dataclasses.replace(as_read(saved, self.run_dir), mesh=self.config.mesh)
        old = build_program(here, self.mesh)
        changed = check_change(
            saved,
            self.config,
            allowed=start.allow_config_change,
            old_state=old.abstract_state,
            new_state=self.program.abstract_state,
        )
        restored = self.checkpoints.restore(
            self.program.abstract_state,
            self.program.shardings,
            step=start.step,
            verify=start.verify,
        )
        fingerprint = restored.provenance["data_fingerprint"]
        if fingerprint != self.batches.fingerprint and not start.allow_config_change:
            raise UserError(
                "the training data has changed since the checkpoint was written (fingerprint "
                f"{fingerprint} -> {self.batches.fingerprint}); restore the files, or add "
                "--allow-config-change to go on with the new ones."
            )
        aside = self.checkpoints.set_aside_after(restored.step, unreadable=start.step is None)
        if changed:
            self.notes.append(f"differs from the config before: {'; '.join(changed)}")
        if aside:
            self.notes.append(f"the checkpoints after step {restored.step} are now in {aside}")
        self.step, self.state = restored.step, restored.state
        # Packed data has one position for all processes, a stream has one for each.
        positions = restored.data["positions"]
        self.batches.restore(positions[min(jax.process_index(), len(positions) - 1)])
        self.progress = Progress.saved(restored.provenance)
        self._restore_validation(restored.provenance)
        updates = self.step - int(self.state["skipped"])
        if jump := rate_change(saved, self.config, self.step, updates):
            self.notes.append(f"warning: {jump}")
        self.record = Record.restored(restored.provenance["record"])

    def _restore_validation(self, provenance: Mapping[str, Any]) -> None:
        """Takes over what validations found, if today's can be compared with them."""
        self.validated = provenance["validated_step"]
        if provenance.get("validation_identity") == self.validation.identity:
            self.best = provenance["best_validation_bits"] or math.inf
            self.last_validation = provenance["last_validation_bits"]
        elif (best := provenance["best_validation_bits"]) is not None:
            self.notes.append(
                "warning: the validation text, its rows or what is measured has changed: the best "
                f"validation so far, {best:.3f}, was of the old ones and no longer counts"
            )

    def run(self, stop: StopRequest) -> TrainResult:
        """Trains to the end or until `stop` asks for it."""
        config = self.config.train
        self.stop, first = stop, self.step
        with (
            self._writer() if self.is_main else contextlib.nullcontext() as self.writer,
            self.display,
        ):
            if first:
                self.display.message(f"resuming from step {first} in {self.run_dir}")
            for note in self.notes:
                self.display.message(note)
            if config.sample_bytes and self.missing:
                self.display.message(
                    f"warning: the family {self.config.model.family} has no "
                    f"{' and no '.join(self.missing)}, so there will be no samples"
                )
            pending: tuple[int, StepMetrics] | None = None
            while True:
                done = self.step >= config.steps
                stopping = self.failure is not None or (not done and stop.agreed())
                # On the way to a stop there may be no time to validate; resuming will.
                validating = (
                    not stopping
                    and self.step > self.validated
                    and (done or self.step % config.validate_every == 0)
                )
                due = done or stopping or self.step % config.checkpoint_every == 0
                if pending and (validating or due):
                    self._take(*pending)
                    pending = None
                bits = self._validate() if validating else None
                stopping = stopping or (validating and bits is None)
                better = bits is not None and bits < self.best
                self.best = min(self.best, bits) if bits is not None else self.best
                if better or (self.step > first and (due or stopping)):
                    self._save(bits)
                if bits is not None:
                    self._sample()
                if done or stopping:
                    break
                batch = self._read()
                if batch is None:
                    continue
                if not self.compiled:
                    self._compile(batch)
                self.state, metrics = self.program.train(self.state, batch)
                if self.step == first:
                    stop.defer(self.display.message)
                self.step += 1
                if pending:
                    self._take(*pending)
                pending = (self.step, metrics)
                # Other devices have the next step to work on while this one's metrics are fetched;
                # a CPU does it in this thread, and the clock would count it to this record.
                if self.mesh.devices.flat[0].platform == "cpu":
                    self._take(*pending)
                    pending = None
        if self.failure is not None and not stop.requested:
            self.checkpoints.wait()
            raise self._reading_failed(self.failure) from None
        return TrainResult(self.run_dir, self.step, self.last_validation, stopping)

    def _read(self) -> Batch | None:
        """The next batch; None, with `failure` set, where it cannot be read and the run can save.

        One of several processes cannot save without the others, which do not know.
        """
        try:
            return place_batch(next(self.batches), self.mesh)
        except Exception as error:  # whatever readers and their worker processes raise
            if jax.process_count() > 1:
                raise self._reading_failed(error) from None
            self.failure = error
            return None

    def _reading_failed(self, error: Exception) -> Exception:
        return reading_failed(error, self.checkpoints.last_step, self.run_dir)

    def _compile(self, batch: Batch) -> None:
        """Compiles the training step, which the first call of it would do in the time of a step."""
        self.display.message("compiling the training step")
        begin = time.perf_counter()
        self.program.lower_train(self.state, batch).compile()
        seconds = time.perf_counter() - begin
        self.display.message(f"compiled in {format_duration(seconds)}")
        self.progress.compile_seconds += seconds
        self.compiled = True
        self.record.resume()

    def _writer(self) -> MetricsWriter:
        return MetricsWriter(
            self.run_dir,
            as_saved(self.config),
            start_step=self.step,
            tensorboard=self.config.train.tensorboard,
            wandb_project=self.config.train.wandb_project,
        )

    def _take(self, step: int, metrics: StepMetrics) -> None:
        """Counts in the metrics of a step, and records them where a record is due."""
        values = jax.device_get(metrics)
        self.progress.add(values.sums, self.step_flops)
        limit = self.config.train.max_skipped
        if values.skipped_in_row >= limit:
            self.checkpoints.wait()
            last = self.checkpoints.last_step
            advice = (
                "there is no checkpoint yet: lower the learning rate and start again"
                if last is None
                else f"the last good checkpoint is that of step {last} in "
                f"{self.checkpoints.folder}: lower the learning rate, then use --resume "
                "--allow-config-change"
            )
            raise UserError(
                f"{limit} steps in a row, up to step {step}, had a loss or gradient that is not "
                f"finite; the run stops; {advice}."
            )
        self.record.add(values, self.step_flops)
        if step % self.config.train.log_every == 0:
            record = self.record
            figures = record.figures(functools.partial(step_flops, self.config), self.peak)
            # The schedule does not advance in a step that is skipped.
            rate = float(self.learning_rate(step - 1 - int(values.skipped)))
            self.progress.seconds += record.seconds
            self.record = Record()
            self._report(step, [*figures, Figure("learning_rate", rate, "lr")])
            self._warn(record.sums, "in training")
            self.record.resume()

    def _warn(self, sums: Sums | None, when: str) -> None:
        """Warns of statistics that are wrong, once of each."""
        if sums is None or self.step / self.config.train.steps <= SETTLED:
            return
        found = warnings(sums.statistics)
        for subject, warning in found.items():
            if (subject, when) not in self.warned:
                self.display.message(f"warning: {when}, {warning}")
            self.warned.add((subject, when))

    def _report(self, step: int, figures: list[Figure]) -> None:
        self.display.update(step, figures)
        if self.writer:
            scalars = {figure.name: figure.value for figure in figures}
            seconds = self.record.seconds
            self.writer.write(step, {**scalars, **self.progress.metrics(seconds)})

    def _validate(self) -> float | None:
        """Bits per byte of the validation text, END not counted.

        None where it was left because the run is to stop.
        """
        with self.record.paused():
            found = self.validation(self.state["params"], self.stop.agreed_midway)
            if found is None:
                return None
            self.validated, self.last_validation = self.step, found.bits
            self._report(self.step, found.figures)
            self._warn(found.sums, "in validation")
        return found.bits

    def _sample(self) -> None:
        """Shows what the model writes; after the save, since it may take long."""
        if not self.config.train.sample_bytes or self.missing or self.stop.agreed_midway():
            return
        with self.record.paused():
            params = on_one_device(self.state["params"], self.mesh)
            if self.writer:
                shown = self.sampler(params, self.step)
                self.display.message(f"--- sample at step {self.step} ---\n{shown}\n---")
                self.writer.write_text(self.step, "sample", shown)

    def _save(self, validation_bits: float | None) -> None:
        if self.checkpoints.last_step == self.step:
            return
        self.record.pause()
        self.checkpoints.save(
            self.step,
            self.state,
            data={"positions": gather_json(self.batches.state())},
            config=self.config,
            provenance={
                **self.provenance,
                "data_fingerprint": self.batches.fingerprint,
                **self.progress.provenance(),
                "best_validation_bits": None if math.isinf(self.best) else self.best,
                "last_validation_bits": self.last_validation,
                "validated_step": self.validated,
                "validation_identity": self.validation.identity,
                "record": self.record.saved(),
            },
            validation_bits=validation_bits,
        )
        if self.is_main and not (self.run_dir / CONFIG).exists():
            # Someone has removed the directory.
            self.text_record.save(self.run_dir)
            self._write_files()
        self.record.resume()
