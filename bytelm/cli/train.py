"""`bytelm train`: its options and what it does."""

import argparse
import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bytelm.cli.arguments import parse, preset_argument, with_source_of
from bytelm.cli.evaluate import eval_command
from bytelm.core import compilation_cache
from bytelm.core.errors import UserError
from bytelm.core.output_files import check_folder
from bytelm.core.stopping import Stopped
from bytelm.core.terminal_text import say
from bytelm.training.experiment import ExperimentConfig, TrainConfig, to_json
from bytelm.training.presets import load_preset, preset_names, some_names


@dataclass(frozen=True)
class TrainCommand:
    """Trains a model from a config."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Where the run is written; none = the first free of runs/PRESET, runs/PRESET-2, ..."""
    resume: bool = False
    """Go on from the last checkpoint in --run-dir, or start there if it has none."""
    step: int | None = None
    """With --resume: go on from this checkpoint, and set the later ones aside."""
    verify: bool = True
    """Whether checkpoints are compared with their digests before they are used."""
    allow_config_change: bool = False
    """Resume though fields that change the outcome differ from the run's saved config."""
    dry_run: bool = False
    """Check the config, tell what the run would be and cost, and stop; only text is packed."""
    print_config: bool = False
    """Print the resolved config as JSON and do nothing."""
    report: bool = False
    """When done, evaluate the test split beside gzip and xz."""
    distributed: bool = False
    """Join the other processes of this cluster job, found from its environment."""
    coordinator: str | None = None
    """Join the processes that name this host:port of process 0."""
    num_processes: int | None = None
    """With --coordinator: how many processes there are."""
    process_id: int | None = None
    """With --coordinator: which of them this is, from 0."""


def train_command(arguments: Sequence[str]) -> int:
    """Trains a model from a config.

    `bytelm train PRESET [options]`
    """
    preset, rest = preset_argument(arguments, train_command)
    if preset is None:
        preset, config = _saved_preset(rest)
    else:
        config = load_preset(preset)
    config = with_source_of(config, rest)
    command = parse(TrainCommand, rest, f"train {preset}", TrainCommand(config))
    _check_length(command.config.train, config.train)
    if command.print_config:
        print(to_json(command.config), end="")
        return 0
    from bytelm.training import distributed, host_memory

    if command.distributed or command.coordinator:
        distributed.join(command.coordinator, command.num_processes, command.process_id)
    compilation_cache.keep_programs()
    host_memory.keep()
    import jax

    from bytelm.training.loop import train
    from bytelm.training.run_directory import (
        lock,
        new_run_directory,
        remove_if_unused,
        unused_directory,
    )

    if command.dry_run:
        from bytelm.training.dry_run import dry_run

        where = command.run_dir or unused_directory(Path("runs") / Path(preset).stem)
        dry_run(command.config, where, resume=command.resume)
        return 0
    if command.report and jax.process_count() > 1:
        raise UserError("--report needs a single process; run eval.py when the run has ended.")
    if command.run_dir is None:
        if jax.process_count() > 1 or command.resume:
            raise UserError("give --run-dir: a resumed run or one of several processes needs it.")
        run_dir = new_run_directory(Path("runs") / Path(preset).stem)
    else:
        run_dir = command.run_dir
        check_folder(run_dir, "--run-dir")
        run_dir.mkdir(parents=True, exist_ok=True)
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
            )
        except (UserError, Stopped):
            if is_main:
                remove_if_unused(run_dir)
            raise
    if is_main:
        _say_how_it_ended(result)
    if result.interrupted:
        return 143
    if command.report:
        return eval_command(["--checkpoint", str(run_dir), "--split", "test"])
    return 0


def _check_length(asked: TrainConfig, preset: TrainConfig) -> None:
    """Raises UserError where the steps are asked for, and a budget decides them."""
    if asked.budget is not None and asked.steps != preset.steps:
        raise UserError(
            f"train.steps is {asked.steps} and train.budget {asked.budget!r}; give one of them "
            "(--train.budget None leaves the budget out)."
        )


def _say_how_it_ended(result: Any) -> None:
    where = f"checkpoint of step {result.step} in {result.run_dir}"
    if result.interrupted and not result.step:
        say("stopped on request before the first step; there is no checkpoint")
        return
    if result.interrupted:
        say(f"stopped on request; {where}; continue with --run-dir {result.run_dir} --resume")
        return
    say(f"done; {where}")
    run = shlex.quote(str(result.run_dir))
    say(f"  evaluate: bytelm eval --checkpoint {run}")
    say(f"  generate: bytelm generate --checkpoint {run} --max-bytes 500")


def _saved_preset(rest: Sequence[str]) -> tuple[str, ExperimentConfig]:
    """The config of the run that --run-dir names, for `train --resume` without a preset."""
    from bytelm.training.experiment import load_json

    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--resume", action="store_true")
    known.add_argument("--run-dir", type=Path)
    options, _ = known.parse_known_args(list(rest))
    if options.resume and options.run_dir:
        run_dir = options.run_dir
        if (run_dir / "config.json").is_file():
            return run_dir.name, load_json(run_dir / "config.json")
        raise UserError(f"{run_dir} holds no run to resume: it has no config.json.")
    raise UserError(
        f"name a preset or a path to a config file first (or --resume with --run-dir)"
        f"{some_names(preset_names())}."
    )
