"""`bytelm train`."""

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from bytelm.cli.arguments import name_argument, parse, parse_part, preset_argument
from bytelm.cli.options import Place
from bytelm.core import compilation_cache
from bytelm.core.config_json import files_needed
from bytelm.core.errors import UserError
from bytelm.core.files import check_folder, make_folder
from bytelm.core.stopping import Stopped
from bytelm.core.terminal_text import say
from bytelm.evaluation import while_training
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training import distributed, host_memory
from bytelm.training.experiment import ExperimentConfig, TrainConfig, load_json, to_json
from bytelm.training.loop import dry_run, train
from bytelm.training.presets import load_preset
from bytelm.training.run_directory import (
    lock,
    new_run_directory,
    remove_if_unused,
    unused_directory,
)


@dataclass(frozen=True)
class TrainCommand:
    """Trains a model from a config."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    run_dir: Place | None = None
    """Run directory; none = the first free of runs/PRESET, runs/PRESET-2, ..."""
    resume: bool = False
    """Continue from the last checkpoint in --run-dir, or start there if it has none."""
    step: int | None = None
    """With --resume: continue from this checkpoint, and set the later ones aside."""
    verify: bool = True
    """Whether to compare checkpoints with their digests."""
    allow_config_change: bool = False
    """Resume even if fields that change the outcome differ from the run's saved config."""
    dry_run: bool = False
    """Check the config, print the facts and cost of the run, and stop; only text is packed."""
    print_config: bool = False
    """Print the resolved config as JSON and stop."""
    report: bool = False
    """Then evaluate the test split, compare with gzip, xz, zstd and brotli, and compress its first
    half megabyte with the model."""
    distributed: bool = False
    """Join the other processes of this cluster job, found from its environment."""
    coordinator: str | None = None
    """Join the processes that have this host:port of process 0."""
    num_processes: int | None = None
    """With --coordinator: how many processes there are."""
    process_id: int | None = None
    """With --coordinator: the number of this process, from 0."""


def train_command(arguments: Sequence[str]) -> int:
    """Trains a model from a config.

    `bytelm train PRESET [options]`
    """
    preset, default, rest = _default(arguments)
    command = parse(TrainCommand, rest, f"train {preset}", default)
    _check_length(command.config.train, default.config.train)
    if command.print_config:
        print(to_json(command.config), end="")
        return 0

    if command.distributed or command.coordinator:
        distributed.join(command.coordinator, command.num_processes, command.process_id)
    compilation_cache.keep_programs()
    host_memory.keep()
    usual_place = Path("runs") / Path(preset).stem
    if command.dry_run:
        where = command.run_dir or unused_directory(usual_place)
        dry_run(command.config, where, resume=command.resume, evaluator=while_training)
        return 0
    return _train(command, usual_place)


def _train(command: TrainCommand, usual_place: Path) -> int:
    run_dir = _run_directory(command, usual_place)
    is_main = jax.process_index() == 0
    with distributed.ending_alone(), lock(run_dir) if is_main else contextlib.nullcontext():
        try:
            result = train(
                command.config,
                run_dir,
                resume=command.resume,
                step=command.step,
                verify=command.verify,
                allow_config_change=command.allow_config_change,
                evaluator=while_training,
            )
        except (UserError, Stopped):
            if is_main:
                remove_if_unused(run_dir)
            raise
    if is_main:
        _say_how_it_ended(result, files_needed(command.config))
    if result.interrupted or (command.report and result.asked_to_stop):
        return 143
    if command.report:
        from bytelm.cli.eval import eval_command

        encodes = isinstance(command.config.model, EncoderDecoderConfig)
        suite = [] if encodes else ["--suite", "bits", "codec"]
        return eval_command(["--checkpoint", str(run_dir), "--split", "test", *suite])
    return 0


def _run_directory(command: TrainCommand, usual_place: Path) -> Path:
    """The run directory, created if needed."""
    if command.report and jax.process_count() > 1:
        raise UserError("--report needs a single process; run eval.py when the run has ended.")
    if command.run_dir is None:
        if jax.process_count() > 1 or command.resume:
            raise UserError("give --run-dir: a resumed run or one of several processes needs it.")
        return new_run_directory(usual_place)
    check_folder(command.run_dir, "--run-dir")
    make_folder(command.run_dir)
    return command.run_dir


def _check_length(asked: TrainConfig, preset: TrainConfig) -> None:
    """Raises UserError if both steps and a budget are given."""
    if asked.budget is not None and asked.steps != preset.steps:
        raise UserError(
            f"train.steps is {asked.steps} and train.budget {asked.budget!r}; give one of them "
            "(--train.budget None leaves the budget out)."
        )


def _say_how_it_ended(result: Any, files: Sequence[str]) -> None:
    """Says where the checkpoint is, and how to go on; `files` are those to import."""
    imports = "".join(f" --import {shlex.quote(file)}" for file in files)
    where = f"checkpoint of step {result.step} in {result.run_dir}"
    if result.interrupted and not result.step:
        say("stopped on request before the first step; there is no checkpoint")
        return
    if result.interrupted:
        again = f"--run-dir {result.run_dir} --resume{imports}"
        say(f"stopped on request; {where}; continue with {again}")
        return
    say(f"done; {where}")
    run = shlex.quote(str(result.run_dir))
    say(f"  evaluate: bytelm eval --checkpoint {run}{imports}")
    say(f"  generate: bytelm generate --checkpoint {run} --max-bytes 500{imports}")


@dataclass(frozen=True)
class _Resumed:
    run_dir: Place | None = None
    resume: bool = False


def _default(arguments: Sequence[str]) -> tuple[str, TrainCommand, Sequence[str]]:
    """The name of a preset, or of the run to resume, its command, and the other arguments."""
    if preset_argument(arguments)[0] is None:
        run, others = parse_part(_Resumed, arguments, "train")
        if run.resume and run.run_dir:
            if not (run.run_dir / "config.json").is_file():
                raise UserError(f"{run.run_dir} holds no run to resume: it has no config.json.")
            config = load_json(run.run_dir / "config.json")
            # Given again as a word: tyro takes no address for the default of a path.
            again = [*others, f"--run-dir={run.run_dir}"]
            return run.run_dir.name, TrainCommand(config, resume=True), again
    instead = " (or --resume with --run-dir)"
    preset, rest = name_argument(arguments, train_command, instead=instead)
    return preset, TrainCommand(load_preset(preset)), rest
