"""Training: a run starts, from the beginning or where it stopped, and goes on to its end."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from bytelm.core import fallible_output
from bytelm.core.errors import StoppedError, UserError
from bytelm.data.carried import with_copies
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.inference.generation import missing_methods
from bytelm.nn.mesh import row_share
from bytelm.training.checkpoints.checkpoint import Checkpoints, last_step
from bytelm.training.compatibility import (
    check_change,
    check_checkpoints_are_there,
    check_supply,
    rate_change,
    read_initial,
    start_from,
)
from bytelm.training.cost import header, run_facts, with_steps
from bytelm.training.distributed import StopRequest
from bytelm.training.entropy_models import (
    entropy_reader,
    fill_entropy_model,
    with_entropy_model,
)
from bytelm.training.experiment import ExperimentConfig, as_saved, load_json, saved_form
from bytelm.training.forecast.forecast import forecast
from bytelm.training.forecast.report import short_text
from bytelm.training.forecast.topology import find_topology
from bytelm.training.hardware import peak_flops
from bytelm.training.last_error import NotingErrors
from bytelm.training.metrics.display import Display, Reporter
from bytelm.training.metrics.record import LoopState
from bytelm.training.metrics.writer import MetricsWriter
from bytelm.training.program import abstract_state, build_program
from bytelm.training.run import (
    Evaluator,
    Hook,
    MakeEvaluator,
    RunParts,
    TrainingRun,
    model_of,
    standard_hooks,
    train_steps,
)
from bytelm.training.run_directory import (
    CONFIG,
    complete_record,
    provenance,
    text_trained_on,
    write_files,
)
from bytelm.training.step import TrainState
from bytelm.training.validation import Validation


@dataclass(frozen=True)
class TrainResult:
    """How a run ended; it is `interrupted` if it ended before its last step.

    `asked_to_stop` says whether a signal came, perhaps after the last step.
    """

    run_dir: Path
    step: int
    validation_bits: float | None
    interrupted: bool
    asked_to_stop: bool = False


def train(
    config: ExperimentConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    step: int | None = None,
    verify: bool = True,
    allow_config_change: bool = False,
    evaluator: MakeEvaluator | None = None,
) -> TrainResult:
    """Trains a model, from the beginning or from the last checkpoint in `run_dir`.

    After the first step, each of `bytelm.core.stopping.SIGNALS` ends the run after the current step
    with a checkpoint. If output or metrics cannot be written, it continues with a warning.

    Args:
        step: the checkpoint to resume from; None for the last one that can be read. Later ones
            are set aside.
        verify: whether to compare checkpoints with their digests.
        allow_config_change: whether config and data may differ from those of the checkpoint.
        evaluator: what runs `train.evaluations`: `bytelm.evaluation.while_training`.

    Raises:
        UserError: for a config that cannot run here, a run that cannot be resumed, a full disk,
            text that cannot be read (after a checkpoint), or `train.max_skipped` steps in a row
            without a finite loss and gradient; StoppedError if a signal came before that.
        Stopped: for a signal before the end of the first step.
    """
    if step is not None and not resume:
        raise UserError(f"--step {step} says where to resume; add --resume.")
    if resume:
        check_checkpoints_are_there(run_dir, step)
    # A wrong --step is a mistake of the user's, and no error of the run.
    owns = (resume and step is None) or not (run_dir / CONFIG).exists()
    with NotingErrors(run_dir, owns=owns) as notes:
        config, data = _resolved(config, run_dir, resume=resume, verify=verify)
        entropies = entropy_reader(config, run_dir if resume else None)
        if entropies is not None:
            data = OpenData(data.config, data.sources, entropies=entropies)
        mesh = config.mesh.build()
        with fallible_output.may_fail(), jax.set_mesh(mesh), StopRequest(mesh) as stop:
            parts = _prepare(config, data, run_dir, mesh)
            start = _Start(resume, step, verify, allow_config_change, _evaluator(parts, evaluator))
            run, hooks = _start(parts, stop, start)
            notes.step = lambda: run.step
            _train(run, hooks, data)
            if run.is_done:
                notes.forget()
            return TrainResult(
                run_dir, run.step, run.loop.last_validation, run.is_stopping, stop.requested
            )


def _train(run: TrainingRun, hooks: list[Hook], data: OpenData) -> None:
    """Trains until the run is done or stops, and until its files are whole."""
    try:
        with run.reporter:
            train_steps(run, hooks)
        if not run.stop.requested:
            run.raise_failure()
        run.checkpoints.close()
        if run.write_files:
            complete_record(run.run_dir, data)
    except UserError as error:
        if run.stop.requested:
            raise StoppedError(str(error)) from error
        raise
    finally:
        run.batches.close()


def dry_run(
    config: ExperimentConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    evaluator: MakeEvaluator | None = None,
) -> None:
    """Checks a config as `train` does, and shows the header of its run and a short forecast.

    Nothing is compiled, and only the cache of packed text is written.

    Raises:
        UserError: for a config that cannot run here, or a directory with a run that is not to be
            resumed.
    """
    config, data = _resolved(config, run_dir, resume=resume)
    mesh = config.mesh.build()
    with jax.set_mesh(mesh):
        parts = _prepare(config, data, run_dir, mesh)
        parts.batches.close()
        _evaluator(parts, evaluator)
        if config.train.initial is not None and not resume:
            params = parts.program.abstract_state.params
            read_initial(config, params, tokenizer=data.tokenizer, verify=True)
    parts.display.message(header(parts.facts, parts.validation.text, run_dir))
    # The text has decided how many steps a budget pays for.
    counted = dataclasses.replace(config, train=dataclasses.replace(config.train, budget=None))
    found = forecast(counted, find_topology(None), compiling=False, remats=False)
    parts.display.message(short_text(found))


class _Start(NamedTuple):
    """Options of `train`."""

    resume: bool
    step: int | None
    verify: bool
    allow_config_change: bool
    evaluator: Evaluator | None


def _resolved(
    config: ExperimentConfig, run_dir: Path, *, resume: bool, verify: bool = True
) -> tuple[ExperimentConfig, OpenData]:
    """The config with its entropy model and its number of steps, and its data.

    A resumed run has its own tokenizers and entropy model, and does not read those in the config.
    """
    config, path = saved_form(config), run_dir / CONFIG
    saved = load_json(path) if resume and path.exists() else None
    config = with_entropy_model(config, saved, verify=verify)
    given = config.data
    if resume:
        given = with_copies(given, run_dir, None if saved is None else saved.data)
    elif path.exists():
        raise UserError(
            f"{run_dir} already holds a run; add --resume to go on with it, or choose another "
            "--run-dir."
        )
    data = OpenData(given)
    return with_steps(config, data), data


def _prepare(config: ExperimentConfig, data: OpenData, run_dir: Path, mesh: Mesh) -> RunParts:
    check_supply(config, data.tokenizer)
    program = build_program(config, mesh)
    batches = train_loader(data, config.train.seed, *row_share(config.data.batch_size, mesh))
    validation = Validation(config, data, program, mesh)
    facts = run_facts(config, data, mesh)
    display = Display(config.train.steps)
    return RunParts(config, data, run_dir, mesh, program, batches, validation, facts, display)


def _start(parts: RunParts, stop: StopRequest, start: _Start) -> tuple[TrainingRun, list[Hook]]:
    """A run that is ready to train, and its hooks."""
    config, run_dir, facts = parts.config, parts.run_dir, parts.facts
    parts.display.message(header(facts, parts.validation.text, run_dir))
    resuming = start.resume and last_step(run_dir) is not None
    # The first state may fail, so it comes before the folder of checkpoints is created.
    first = None if resuming else _first_state(parts, start.verify)
    identity = parts.validation.identity
    checkpoints = Checkpoints(run_dir, config.train.keep, identity)
    if first is None:
        step, state, loop = _restore(parts, checkpoints, start)
    else:
        step, state, loop = 0, first, LoopState(validation_identity=identity)

    counts = {name: facts[name] for name in ("parameters", "parameters_without_embeddings")}
    origin, write, writer = provenance() | counts, None, None
    if jax.process_index() == 0:
        trained_on = text_trained_on(run_dir, config, parts.data, resuming=resuming)
        write = partial(write_files, run_dir, config, facts, trained_on, parts.data)
        write()
        origin["text"] = trained_on.sources
        writer = MetricsWriter(
            run_dir,
            as_saved(config),
            start_step=step,
            tensorboard=config.train.tensorboard,
            wandb_project=config.train.wandb_project,
        )
    peak = peak_flops(config.model.dtype) * parts.mesh.size
    run = TrainingRun(
        **vars(parts),
        checkpoints=checkpoints,
        reporter=Reporter(config, loop, parts.display, peak, writer),
        write_files=write,
        evaluator=start.evaluator,
        stop=stop,
        provenance=origin,
        state=state,
        loop=loop,
        step=step,
    )
    return run, standard_hooks(config.train, samples=_has_samples(parts))


def _first_state(parts: RunParts, verify: bool) -> TrainState:
    """The state before the first step, with an entropy model's parameters and `train.initial`'s."""
    config, program = parts.config, parts.program
    state, shardings = program.init(config.train.seed), program.shardings.params
    params = fill_entropy_model(config.model, state.params, shardings, verify=verify)
    state = dataclasses.replace(state, params=params)
    if config.train.initial is None:
        return state
    tokenizer = parts.data.tokenizer
    params, differences, lacked = start_from(
        config, state.params, shardings, tokenizer=tokenizer, verify=verify
    )
    if differences:
        parts.display.message(
            f"differs from train.initial {config.train.initial}: {'; '.join(differences)}"
        )
    if lacked:
        parts.display.message(f"start fresh, because train.initial lacks them: {', '.join(lacked)}")
    return dataclasses.replace(state, params=params)


def _restore(
    parts: RunParts, checkpoints: Checkpoints, start: _Start
) -> tuple[int, TrainState, LoopState]:
    """The step, the state and the loop's state to resume from.

    Moves the batches there, and sets later checkpoints aside.
    """
    config, program, message = parts.config, parts.program, parts.display.message
    saved = checkpoints.config(start.step, verify=start.verify)
    changed = check_change(
        saved,
        config,
        allowed=start.allow_config_change,
        old_state=abstract_state(saved),
        new_state=program.abstract_state,
    )
    restored = checkpoints.restore(
        program.abstract_state, program.shardings, step=start.step, verify=start.verify
    )
    fingerprint, batches = restored.provenance["data_fingerprint"], parts.batches
    if not batches.reads(fingerprint) and not start.allow_config_change:
        raise UserError(
            f"the training data has changed since the checkpoint was written (fingerprint "
            f"{fingerprint} -> {batches.fingerprint}); restore the files, or add "
            "--allow-config-change to go on with the new ones."
        )
    step, state, loop = restored.step, restored.state, restored.loop
    message(f"resuming from step {step} in {checkpoints.folder.parent}")
    if changed:
        message(f"differs from the config before: {'; '.join(changed)}")
    if aside := checkpoints.set_aside_after(step, unreadable=start.step is None):
        message(f"the checkpoints after step {step} are now in {aside}")
    # Packed data has one position for all processes, a stream has one for each.
    positions = restored.data["positions"]
    batches.restore(positions[min(jax.process_index(), len(positions) - 1)])
    if jump := rate_change(saved, config, step, updates=step - int(state.skipped)):
        message(f"warning: {jump}")
    _compare_validations(loop, parts.validation.identity, message)
    return step, state, loop


def _compare_validations(loop: LoopState, identity: str, message: Callable[[str], None]) -> None:
    """Removes the results of validations that cannot be compared with those to come."""
    if loop.validation_identity == identity:
        return
    if loop.best_validation is not None:
        message(
            "warning: the validation text, its rows or what is measured has changed: the best "
            f"validation so far, {loop.best_validation:.3f}, was of the old ones and no longer "
            "counts"
        )
    loop.last_validation = loop.best_validation = None
    loop.validation_identity = identity


def _evaluator(parts: RunParts, make: MakeEvaluator | None) -> Evaluator | None:
    """What runs `train.evaluations`, checked before the first step; None for no evaluations."""
    if not parts.config.train.evaluations:
        return None
    if make is None:
        raise UserError(
            "train.evaluations need what runs them: call "
            "`train(..., evaluator=bytelm.evaluation.while_training)`."
        )
    if jax.process_count() > 1:
        raise UserError(
            "train.evaluations need a single process; leave them out, and run `bytelm eval` on the "
            "checkpoints."
        )
    return make(model_of(parts, parts.program.abstract_state.params, 0), parts.data)


def _has_samples(parts: RunParts) -> bool:
    """Whether samples are wanted and the family can write text."""
    if not parts.config.train.sample_bytes:
        return False
    missing = missing_methods(parts.program.graphdef)
    if missing:
        parts.display.message(
            f"warning: the family {parts.config.model.family} has no {' and no '.join(missing)}, "
            "so there will be no samples"
        )
    return not missing
