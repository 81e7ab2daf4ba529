"""How a run starts: from the beginning, from another run's parameters, or where it stopped."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax

from bytelm.core.errors import UserError
from bytelm.data.carried import with_copies
from bytelm.data.loader import TrainLoader, train_loader
from bytelm.data.open_data import OpenData
from bytelm.inference.generation import missing_methods
from bytelm.nn.mesh import row_share
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.checkpoints.checkpoint import Checkpoints, Restored, last_step
from bytelm.training.compatibility import check_change, rate_change
from bytelm.training.distributed import StopRequest
from bytelm.training.experiment import ExperimentConfig, as_saved, load_json
from bytelm.training.hardware import peak_flops
from bytelm.training.header import describe_run
from bytelm.training.hooks import Hook, standard_hooks
from bytelm.training.initial import start_from
from bytelm.training.loop_state import LoopState
from bytelm.training.metrics.display import Display
from bytelm.training.metrics.writer import MetricsWriter
from bytelm.training.program import TrainProgram, abstract_state, build_program
from bytelm.training.provenance import provenance
from bytelm.training.reporter import Reporter
from bytelm.training.run import Run
from bytelm.training.run_files import CONFIG, RunFiles, text_trained_on
from bytelm.training.samples import Sampler
from bytelm.training.step import TrainState
from bytelm.training.supply import check_supply
from bytelm.training.validation import Validation

Message = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """How a run starts: from the beginning, or from a checkpoint of its own."""

    resume: bool = False
    """From its last checkpoint, if it has one."""
    step: int | None = None
    """When resuming, from this checkpoint; later ones are set aside."""
    verify: bool = True
    """Whether checkpoints are compared with their digests."""
    allow_config_change: bool = False
    """When resuming, whether config and data may differ from the checkpoint's."""


def start_run(
    config: ExperimentConfig,
    data: OpenData,
    run_dir: Path,
    mesh: jax.sharding.Mesh,
    stop: StopRequest,
    start: Start,
) -> tuple[Run, list[Hook]]:
    """A run that is ready to train, and its hooks.

    Raises:
        UserError: for a config that cannot run here, or a run that cannot be resumed.
    """
    check_supply(config, data.tokenizer)
    program = build_program(config, mesh)
    share = row_share(config.data.batch_size, mesh)
    batches = train_loader(data, config.train.seed, *share)
    validation = Validation(config, data, program, mesh)
    facts, header = describe_run(config, data, program, mesh, validation, run_dir)
    display = Display(config.train.steps)
    display.message(header)

    resuming = start.resume and last_step(run_dir) is not None
    if resuming:
        checkpoints = Checkpoints(run_dir, config.train.keep, validation.identity)
        restored = _restore(config, program, checkpoints, batches, start, display.message)
        step, state, loop = restored.step, restored.state, restored.loop
        _compare_validations(loop, validation.identity, display.message)
    else:
        # Before there is a folder of checkpoints: this may fail.
        state = _first_state(config, program, data.tokenizer, start.verify, display.message)
        checkpoints = Checkpoints(run_dir, config.train.keep, validation.identity)
        step, loop = 0, LoopState(validation_identity=validation.identity)

    origin = provenance() | {
        name: facts[name] for name in ("parameters", "parameters_without_embeddings")
    }
    files = None
    if jax.process_index() == 0:
        text = text_trained_on(run_dir, config, data, resuming=resuming)
        files = RunFiles(run_dir, config, facts, text, data.tokenizer, data.unigram)
        files.write()
        origin["text"] = text.sources
    reporter = Reporter(
        config,
        loop,
        display,
        functools.partial(_open_writer, config, run_dir, step) if files else None,
        peak_flops(config.model.dtype).flops_per_second * mesh.size,
    )
    run = Run(
        config=config,
        run_dir=run_dir,
        mesh=mesh,
        program=program,
        batches=batches,
        checkpoints=checkpoints,
        reporter=reporter,
        files=files,
        stop=stop,
        provenance=origin,
        state=state,
        loop=loop,
        step=step,
    )
    sampler = _sampler(config, program, data.tokenizer, validation, display.message)
    return run, standard_hooks(validation, sampler, config.train.validate_every)


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


def _first_state(
    config: ExperimentConfig,
    program: TrainProgram,
    tokenizer: Tokenizer | None,
    verify: bool,
    message: Message,
) -> TrainState:
    """The state before the first step, with the parameters of `train.initial` if there is one."""
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
    """The checkpoint to go on from; the batches go on after it, later checkpoints are set aside."""
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
    """Forgets what validations found, if today's cannot be compared with them."""
    best = loop.best_validation
    if loop.validation_identity != identity:
        loop.last_validation = loop.best_validation = None
        loop.validation_identity = identity
        if best is not None:
            message(
                "warning: the validation text, its rows or what is measured has changed: the best "
                f"validation so far, {best:.3f}, was of the old ones and no longer counts"
            )


def _open_writer(config: ExperimentConfig, run_dir: Path, step: int) -> MetricsWriter:
    return MetricsWriter(
        run_dir,
        as_saved(config),
        start_step=step,
        tensorboard=config.train.tensorboard,
        wandb_project=config.train.wandb_project,
    )


def _sampler(
    config: ExperimentConfig,
    program: TrainProgram,
    tokenizer: Tokenizer | None,
    validation: Validation,
    message: Message,
) -> Sampler | None:
    """What writes samples, if they are wanted and the family can write text."""
    if not config.train.sample_bytes:
        return None
    if missing := missing_methods(program.graphdef):
        message(
            f"warning: the family {config.model.family} has no {' and no '.join(missing)}, so "
            "there will be no samples"
        )
        return None
    return Sampler(config, program, tokenizer, validation)
