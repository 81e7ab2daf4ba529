"""How a run starts: from the beginning, from another run's parameters, or where it stopped."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from bytelm.core.errors import UserError
from bytelm.data.carried import with_copies
from bytelm.data.loader import TrainLoader, train_loader
from bytelm.data.open_data import OpenData
from bytelm.inference.generation import missing_methods
from bytelm.nn.mesh import row_share
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.checkpoints.checkpoint import Checkpoints, Restored, last_step
from bytelm.training.compatibility import check_change, check_supply, rate_change
from bytelm.training.cost import with_steps
from bytelm.training.distributed import StopRequest
from bytelm.training.experiment import ExperimentConfig, load_json, saved_form
from bytelm.training.hardware import peak_flops
from bytelm.training.header import header, run_facts
from bytelm.training.hooks import Hook, standard_hooks
from bytelm.training.initial import read_initial, start_from
from bytelm.training.loop_state import LoopState
from bytelm.training.metrics.display import Display
from bytelm.training.program import TrainProgram, abstract_state, build_program
from bytelm.training.provenance import provenance
from bytelm.training.reporter import Reporter
from bytelm.training.run import TrainingRun
from bytelm.training.run_directory import CONFIG, RunFiles, text_trained_on
from bytelm.training.samples import Sampler
from bytelm.training.step import TrainState
from bytelm.training.validation import Validation

Message = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """How a run starts: from the beginning, or from a checkpoint of its own."""

    resume: bool = False
    """From its last checkpoint, if it has one."""
    step: int | None = None
    """With `resume`: from this checkpoint; later ones are set aside."""
    verify: bool = True
    """Whether to compare checkpoints with their digests."""
    allow_config_change: bool = False
    """With `resume`: whether config and data may differ from the checkpoint's."""


class _Prepared(NamedTuple):
    """The parts of a run that a dry run has too."""

    program: TrainProgram
    batches: TrainLoader
    validation: Validation
    facts: dict[str, Any]
    header: str


def start_run(
    config: ExperimentConfig,
    data: OpenData,
    run_dir: Path,
    mesh: Mesh,
    stop: StopRequest,
    start: Start,
) -> tuple[TrainingRun, list[Hook]]:
    """A run that is ready to train, and its hooks.

    Raises:
        UserError: for a config that cannot run here, or a run that cannot be resumed.
    """
    program, batches, validation, facts, text = _prepare(config, data, run_dir, mesh)
    display = Display(config.train.steps)
    display.message(text)

    resuming = start.resume and last_step(run_dir) is not None
    if resuming:
        checkpoints = Checkpoints(run_dir, config.train.keep, validation.identity)
        restored = _restore(config, program, checkpoints, batches, start, display.message)
        step, state, loop = restored.step, restored.state, restored.loop
        _compare_validations(loop, validation.identity, display.message)
    else:
        # This may fail, so it comes before the folder of checkpoints is created.
        state = _first_state(config, program, data.tokenizer, start.verify, display.message)
        checkpoints = Checkpoints(run_dir, config.train.keep, validation.identity)
        step, loop = 0, LoopState(validation_identity=validation.identity)

    counts = {name: facts[name] for name in ("parameters", "parameters_without_embeddings")}
    origin, files = provenance() | counts, None
    if jax.process_index() == 0:
        trained_on = text_trained_on(run_dir, config, data, resuming=resuming)
        files = RunFiles(run_dir, config, facts, trained_on, data.tokenizer, data.unigram)
        files.write()
        origin["text"] = trained_on.sources
    peak = peak_flops(config.model.dtype) * mesh.size
    reporter = Reporter(config, run_dir, step, loop, display, peak, writes=files is not None)
    run = TrainingRun(
        config,
        run_dir,
        mesh,
        program,
        batches,
        checkpoints,
        reporter,
        files,
        stop,
        provenance=origin,
        state=state,
        loop=loop,
        step=step,
    )
    sampler = _sampler(config, program, data.tokenizer, validation, display.message)
    return run, standard_hooks(validation, sampler, config.train.validate_every)


def dry_run(config: ExperimentConfig, run_dir: Path, *, resume: bool = False) -> None:
    """Checks a config as `train` does, and shows the header of its run.

    Nothing is compiled, and only the cache of packed text is written.

    Raises:
        UserError: for a config that cannot run here, or a directory with a run that is not to be
            resumed.
    """
    config, data = resolved(config, run_dir, resume=resume)
    mesh = config.mesh.build()
    with jax.set_mesh(mesh):
        parts = _prepare(config, data, run_dir, mesh)
        parts.batches.close()
        if config.train.initial is not None and not resume:
            params = parts.program.abstract_state.params
            read_initial(config, params, tokenizer=data.tokenizer, verify=True)
    Display(config.train.steps).message(parts.header)


def resolved(
    config: ExperimentConfig, run_dir: Path, *, resume: bool
) -> tuple[ExperimentConfig, OpenData]:
    """The config with its number of steps, and its data.

    A resumed run reads its own copies of tokenizers, not the files in the config.

    Raises:
        UserError: for a config that cannot be saved, bad data, or a directory with a run that is
            not to be resumed.
    """
    config = saved_form(config)
    path, given = run_dir / CONFIG, config.data
    if resume:
        given = with_copies(given, run_dir, load_json(path).data if path.exists() else None)
    elif path.exists():
        raise UserError(
            f"{run_dir} already holds a run; add --resume to go on with it, or choose another "
            "--run-dir."
        )
    data = OpenData(given)
    return with_steps(config, data), data


def _prepare(config: ExperimentConfig, data: OpenData, run_dir: Path, mesh: Mesh) -> _Prepared:
    check_supply(config, data.tokenizer)
    program = build_program(config, mesh)
    batches = train_loader(data, config.train.seed, *row_share(config.data.batch_size, mesh))
    validation = Validation(config, data, program, mesh)
    facts = run_facts(config, data, mesh)
    return _Prepared(program, batches, validation, facts, header(facts, validation, run_dir))


def _first_state(
    config: ExperimentConfig,
    program: TrainProgram,
    tokenizer: Tokenizer | None,
    verify: bool,
    message: Message,
) -> TrainState:
    """The state before the first step, with the parameters of `train.initial`, if any."""
    state = program.init(config.train.seed)
    if config.train.initial is None:
        return state
    params, differences = start_from(
        config, state.params, program.shardings.params, tokenizer=tokenizer, verify=verify
    )
    if differences:
        message(f"differs from train.initial {config.train.initial}: {'; '.join(differences)}")
    return dataclasses.replace(state, params=params)


def _restore(
    config: ExperimentConfig,
    program: TrainProgram,
    checkpoints: Checkpoints,
    batches: TrainLoader,
    start: Start,
    message: Message,
) -> Restored:
    """The checkpoint to resume from; moves the batches there, and sets later checkpoints aside."""
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
    fingerprint = restored.provenance["data_fingerprint"]
    if fingerprint != batches.fingerprint and not start.allow_config_change:
        raise UserError(
            f"the training data has changed since the checkpoint was written (fingerprint "
            f"{fingerprint} -> {batches.fingerprint}); restore the files, or add "
            "--allow-config-change to go on with the new ones."
        )
    message(f"resuming from step {restored.step} in {checkpoints.folder.parent}")
    if changed:
        message(f"differs from the config before: {'; '.join(changed)}")
    if aside := checkpoints.set_aside_after(restored.step, unreadable=start.step is None):
        message(f"the checkpoints after step {restored.step} are now in {aside}")
    # Packed data has one position for all processes, a stream has one for each.
    positions = restored.data["positions"]
    batches.restore(positions[min(jax.process_index(), len(positions) - 1)])
    updates = restored.step - int(restored.state.skipped)
    if jump := rate_change(saved, config, restored.step, updates):
        message(f"warning: {jump}")
    return restored


def _compare_validations(loop: LoopState, identity: str, message: Message) -> None:
    """Removes the results of validations that cannot be compared with those to come."""
    best = loop.best_validation
    if loop.validation_identity != identity:
        loop.last_validation = loop.best_validation = None
        loop.validation_identity = identity
        if best is not None:
            message(
                "warning: the validation text, its rows or what is measured has changed: the best "
                f"validation so far, {best:.3f}, was of the old ones and no longer counts"
            )


def _sampler(
    config: ExperimentConfig,
    program: TrainProgram,
    tokenizer: Tokenizer | None,
    validation: Validation,
    message: Message,
) -> Sampler | None:
    """The sampler, if samples are wanted and the family can write text."""
    if not config.train.sample_bytes:
        return None
    if missing := missing_methods(program.graphdef):
        message(
            f"warning: the family {config.model.family} has no {' and no '.join(missing)}, so "
            "there will be no samples"
        )
        return None
    return Sampler(config, program, tokenizer, validation)
