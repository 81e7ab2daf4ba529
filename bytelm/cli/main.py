"""The command line: `bytelm train|eval|generate|segment|...` (and train.py, eval.py)."""

import argparse
import contextlib
import dataclasses
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from bytelm.cli import usage
from bytelm.cli.option_checks import check_lists, check_numbers
from bytelm.cli.options import (
    CacheCommand,
    ConvertCommand,
    DescribeCommand,
    EvalCommand,
    GenerateCommand,
    ProfileCommand,
    RatesCommand,
    TokenizerCommand,
    TrainCommand,
    UnigramCommand,
)
from bytelm.cli.source_options import check_files_named, with_named_source
from bytelm.core import compilation_cache, fallible_output
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.output_files import check_folder
from bytelm.core.stopping import Stopped, StopSignals
from bytelm.core.terminal_text import (
    escape_unwritable,
    log_to_terminal,
    printable,
    say,
)
from bytelm.data.config import DataConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig, to_json
from bytelm.training.presets import (
    ablation_names,
    comparison_names,
    find_file,
    load_preset,
    preset_names,
    run_file,
    some_names,
)

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str], program: str, default: Any = None) -> T:
    """Reads a command's options; mistakes end the program with a message that names the option."""
    check_files_named(arguments)
    command = tyro.cli(
        kind,
        args=list(arguments),
        prog=f"bytelm {program}",
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
    )
    check_lists(command, arguments)
    check_numbers(command)
    return command


def train_command(arguments: Sequence[str]) -> int:
    """Trains a model from a config.

    `bytelm train PRESET [options]`
    """
    preset, rest = _preset(arguments, "train")
    if preset is None:
        preset, config = _saved_preset(rest)
    else:
        config = load_preset(preset)
    config = _with_named_source(config, rest)
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


def eval_command(arguments: Sequence[str]) -> int:
    """Scores a checkpoint: exact bits per byte over whole documents.

    `bytelm eval --checkpoint RUN [options]`
    """
    from bytelm.api import load
    from bytelm.core.output_files import check_new_file
    from bytelm.evaluation.command import evaluate_run
    from bytelm.training import host_memory
    from bytelm.training.checkpoints.chosen_step import step_of

    # The checkpoint's config is the default of the options, so it is needed to read them.
    first = argparse.ArgumentParser("eval", add_help=False, allow_abbrev=False)
    first.add_argument("--checkpoint", type=Path)
    first.add_argument("--step", type=step_of)
    first.add_argument("--output", type=Path)
    first.add_argument("--no-verify", action="store_false", dest="verify")
    known, _ = first.parse_known_args(list(arguments))
    if known.checkpoint is None:
        if {"-h", "--help"} & set(arguments):
            parse(EvalCommand, arguments, "eval", EvalCommand(DataConfig(), Path("RUN")))
        raise UserError("name the run to evaluate: --checkpoint RUN.")
    if known.output is not None:
        check_new_file(known.output)
    read_only = known.output is None and not os.access(known.checkpoint, os.W_OK)
    if read_only and known.checkpoint.is_dir():
        warnings.warn(
            f"{known.checkpoint} cannot be written to, so that the report is printed and not "
            "kept; name a file for it with --output.",
            stacklevel=2,
        )
    host_memory.keep()
    loaded = load(known.checkpoint, known.step, verify=known.verify)
    default = EvalCommand(with_named_source(loaded.config.data, arguments), known.checkpoint)
    command = parse(EvalCommand, arguments, "eval", default)
    evaluate_run(loaded, command, keep=not read_only)
    return 0


def generate_command(arguments: Sequence[str]) -> int:
    """Continues prompts with a checkpoint.

    `bytelm generate --checkpoint RUN --prompt TEXT [options]`
    """
    command = parse(GenerateCommand, arguments, "generate")
    if command.raw and len(command.prompt) > 1:
        raise UserError(
            "--raw writes the bytes of one continuation and nothing else, so that several could "
            "not be told apart; give one --prompt."
        )
    if command.prompt.count("-") > 1:
        raise UserError("standard input can be read once; give one --prompt -.")
    from bytelm.api import load
    from bytelm.cli.terminal import write_continuations

    loaded = load(command.checkpoint, command.step, weights=command.weights, verify=command.verify)
    prompts = [
        sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
        for prompt in command.prompt
    ]
    ways: dict[str, int] = {} if command.beams == 1 else {"beams": command.beams}
    if command.byte_marginal:
        ways["covers"] = command.covers
    write_continuations(
        loaded,
        prompts,
        raw=command.raw,
        **ways,
        max_bytes=command.max_bytes,
        temperature=command.temperature,
        top_k=command.top_k,
        top_p=command.top_p,
        min_p=command.min_p,
        stop=[os.fsencode(text) for text in command.stop],
        seed=command.seed,
    )
    return 0


def segment_command(arguments: Sequence[str]) -> int:
    """Shows the patches that a checkpoint cuts a text into, and what they cost.

    `bytelm segment --checkpoint RUN --text TEXT [options]`
    """
    from bytelm.evaluation.segmentation_view import SegmentCommand, show_segmentation

    show_segmentation(parse(SegmentCommand, arguments, "segment"))
    return 0


def ablate_command(arguments: Sequence[str]) -> int:
    """Trains and tests the points of an ablation.

    `bytelm ablate ABLATION [options]`
    """
    name, rest = _preset(arguments, "ablate", "ablation", ablation_names)
    if name is None:
        raise UserError(f"name an ablation first{some_names(ablation_names())}.")
    from bytelm.experiments.ablate import AblateCommand, AblationPlan, run_ablation
    from bytelm.experiments.ablation import Ablation

    ablation = run_file(find_file(name, "ablation", ablation_names()), "ablation", Ablation)
    base = _with_named_source(ablation.base, rest)
    default = AblateCommand(base, ablation.baseline, ablation.seeds, ablation.learning_rates)
    command = parse(AblateCommand, rest, f"ablate {name}", default)
    ablation = dataclasses.replace(
        ablation,
        base=command.config,
        baseline=command.baseline,
        seeds=command.seeds,
        learning_rates=command.learning_rates,
    )
    output = command.output or Path("runs/ablations") / Path(name).stem
    if command.tasks:
        plan = AblationPlan(ablation, output)
        say(f"{len(plan.sweep)} {plan.count()}")
        return 0
    return run_ablation(ablation, output, max_bytes=command.max_bytes, task=command.task)


def data_command(arguments: Sequence[str]) -> int:
    """Describes text, and makes what models need of it.

    `bytelm data describe|unigram|rates|cache [PRESET] [options]`
    """
    name = _work(arguments, "data", DATA_COMMANDS)
    if name == "cache":
        cache = parse(CacheCommand, arguments[1:], "data cache", CacheCommand())
        from bytelm.data.corpus.cache_listing import manage_cache

        folder = None if cache.cache_dir is None else str(cache.cache_dir)
        where = DataConfig(cache_dir=folder).cache_path
        return manage_cache(
            where, verify=cache.verify, remove=cache.remove, remove_unused=cache.remove_unused
        )
    preset, rest = _preset(arguments[1:], f"data {name}")
    data = with_named_source(load_preset(preset).data if preset else DataConfig(), rest)
    command = parse(DATA_COMMANDS[name], rest, f"data {name}", DATA_COMMANDS[name](data))
    if isinstance(command, DescribeCommand):
        from bytelm.data.describe import describe

        describe(command.data, command.samples)
    elif isinstance(command, UnigramCommand):
        from bytelm.tokenizers.unigram_training import write_unigram

        write_unigram(command.data, command.pieces, command.max_bytes, command.output)
    elif isinstance(command, RatesCommand):
        from bytelm.data.script_rates import print_rates

        print_rates(command.data, command.anchor, command.rate)
    return 0


def tokenizer_command(arguments: Sequence[str]) -> int:
    """Trains a subword tokenizer on the train split, for data.tokenizer.

    `bytelm tokenizer train [PRESET] [options]`
    """
    _work(arguments, "tokenizer", {"train": TokenizerCommand})
    preset, rest = _preset(arguments[1:], "tokenizer train")
    data = with_named_source(load_preset(preset).data if preset else DataConfig(), rest)
    command = parse(TokenizerCommand, rest, "tokenizer train", TokenizerCommand(data))
    from bytelm.tokenizers.training import write_tokenizer

    suffix = "model" if command.kind == "unigram" else "json"
    output = command.output or Path(f"{command.kind}-{command.size}.{suffix}")
    write_tokenizer(
        command.data,
        command.kind,
        command.size,
        command.max_bytes,
        output,
        transition=command.transition,
    )
    return 0


def compare_command(arguments: Sequence[str]) -> int:
    """Trains models at equal budgets and reports how they compare.

    `bytelm compare COMPARISON [options]`
    """
    name, rest = _preset(arguments, "compare", "comparison", comparison_names)
    if name is None:
        raise UserError(f"name a comparison first{some_names(comparison_names())}.")
    from bytelm.experiments.compare import CompareCommand, ComparisonPlan, run_comparison
    from bytelm.experiments.comparison import Comparison

    path = find_file(name, "comparison", comparison_names())
    comparison = run_file(path, "comparison", Comparison)
    command = parse(CompareCommand, rest, f"compare {name}", CompareCommand())
    output = command.output or Path("runs/comparison") / Path(name).stem
    if command.tasks:
        plan = ComparisonPlan(comparison, output, command.root)
        say(f"{len(plan.sweep)} {plan.count()}")
        return 0
    return run_comparison(comparison, output, root=command.root, task=command.task)


def convert_command(arguments: Sequence[str]) -> int:
    """Writes a model as safetensors, or converts ByT5 and MrT5 from and to Hugging Face's T5.

    `bytelm convert --to-safetensors FOLDER --checkpoint RUN | --from-hf PATH_OR_NAME --output RUN |
    --to-hf FOLDER --checkpoint RUN`
    """
    command = parse(ConvertCommand, arguments, "convert")
    from bytelm.training.checkpoints.chosen_step import chosen_step
    from bytelm.training.conversion import from_hf, to_hf

    match command:
        case ConvertCommand(str() as source, Path() as run, None, None, None, None):
            from_hf(source, run)
            say(f"done; checkpoint of step 0 in {run}")
        case ConvertCommand(None, None, None, Path() as run, step, Path() as folder):
            from bytelm.api import load

            load(run, step).save(folder)
            say(f"done; parameters, config and model card in {folder}")
        case ConvertCommand(None, None, Path() as folder, Path() as run, step, None):
            to_hf(run, folder, chosen_step(run, step))
            say(f"done; T5's config and weights in {folder}")
        case _:
            raise UserError(
                "say what to convert: `--from-hf PATH_OR_NAME --output RUN`, `--to-hf FOLDER "
                "--checkpoint RUN`, or `--to-safetensors FOLDER --checkpoint RUN`."
            )
    return 0


def profile_command(arguments: Sequence[str]) -> int:
    """Traces a few training steps.

    `bytelm profile PRESET [options]`
    """
    preset, rest = _preset(arguments, "profile")
    if preset is None:
        raise UserError(f"name a preset first{some_names(preset_names())}.")
    config = _with_named_source(load_preset(preset), rest)
    command = parse(ProfileCommand, rest, f"profile {preset}", ProfileCommand(config))
    from bytelm.training import host_memory
    from bytelm.training.profile import profile

    host_memory.keep()
    profile(command.config, command.trace_dir, command.steps)
    return 0


DATA_COMMANDS: dict[str, type[Any]] = {
    "describe": DescribeCommand,
    "unigram": UnigramCommand,
    "rates": RatesCommand,
    "cache": CacheCommand,
}
"""What `bytelm data` does, and the options of each."""


def _work(arguments: Sequence[str], command: str, kinds: Mapping[str, type[Any]]) -> str:
    """The first argument, which says which of a command's kinds of work to do."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        say(usage.of_command(COMMANDS[command], kinds))
        sys.exit(0)
    if name not in kinds:
        given = f" (there is no {command} {name!r}{did_you_mean(name, kinds)})" if name else ""
        raise UserError(
            f"say what to do: `bytelm {command} {'|'.join(kinds)} [PRESET] [options]`{given}."
        )
    return name


def _with_named_source(config: ExperimentConfig, arguments: Sequence[str]) -> ExperimentConfig:
    return dataclasses.replace(config, data=with_named_source(config.data, arguments))


def _preset(
    arguments: Sequence[str],
    command: str,
    what: str = "preset",
    names: Callable[[], list[str]] = preset_names,
) -> tuple[str | None, Sequence[str]]:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if command in COMMANDS and {"-h", "--help"} & set(arguments):
        say(usage.of_preset_command(command, COMMANDS[command], what, names()))
        sys.exit(0)
    return None, arguments


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "eval": eval_command,
    "generate": generate_command,
    "segment": segment_command,
    "ablate": ablate_command,
    "compare": compare_command,
    "data": data_command,
    "tokenizer": tokenizer_command,
    "convert": convert_command,
    "profile": profile_command,
}


TRAINING = ("train", "ablate", "compare")
"""Commands that go on where their output cannot be written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """As `run_command`, and returns the exit status of a command that was stopped too."""
    try:
        return run_command(arguments)
    except Stopped as stopped:
        return stopped.status


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (2 for a mistake in the input).

    Raises:
        Stopped: by a signal.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    # Orbax and TFDS tell their every move through absl, with tracebacks of their threads; what a
    # user must know they raise.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(str(message))}\n"
    escape_unwritable(sys.stdout, sys.stderr)
    log_to_terminal()
    fallible_output.open_standard_streams()
    with StopSignals(owns_process=True):
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            say(usage.overview(COMMANDS))
            return 0
        if arguments[0] == "--version":
            say(usage.versions())
            return 0
        arguments = usage.import_named(arguments)
        name = arguments[0] if arguments else ""
        if name not in COMMANDS:
            raise UserError(
                f"there is no command {name!r}{did_you_mean(name, COMMANDS)}; there are "
                f"{', '.join(COMMANDS)}."
            )
        if name in ("eval", "generate", "segment", "ablate", "compare", "profile"):
            compilation_cache.keep_programs()
        with fallible_output.may_fail() if name in TRAINING else contextlib.nullcontext():
            return COMMANDS[name](arguments[1:])
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        say(f"error: {error}", sys.stderr)
        return 2


if __name__ == "__main__":
    from bytelm.cli.entry_point import run

    run()
