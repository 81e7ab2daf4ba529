"""`bytelm plan`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from bytelm.cli.arguments import name_argument, parse
from bytelm.cli.options import Place
from bytelm.core.errors import UserError
from bytelm.core.files import check_new_file, write_whole
from bytelm.core.terminal_text import printable_name, say
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.presets import load_preset


@dataclass(frozen=True)
class PlanCommand:
    """Forecasts a run: parameters, memory, exchanges, time and cost, without running anything."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    topology: str | None = None
    """Devices to plan for, which need not exist: a TPU slice such as v5p:2x2x4, v5e:4x4 or
    v6e:16x16 (with the extra `tpu`), GPUs such as gpu:8xh200, or cpu:8; none = this machine's."""
    fit: bool = False
    """Search mesh, remat and accumulation for the fastest step that fits."""
    candidates: int | None = None
    """With --fit: how many choices that fit are compiled and compared; none = 3."""
    compile: bool = True
    """Whether to compile the step; if not, all figures of it are rough estimates."""
    bytes: float | None = None
    """Bytes (or tokens) of training whose cost to give; none = those of the config."""
    markdown: bool = False
    """Print one row of a Markdown table, with its header."""
    output: Place | None = None
    """JSON file for all figures."""
    overwrite: bool = False
    """Let --output replace a file."""


def plan_command(arguments: Sequence[str]) -> int:
    """Forecasts a run on devices that need not be there: memory, exchanges, time and cost.

    `bytelm plan PRESET [--topology v5p:2x2x4] [options]`
    """
    preset, rest = name_argument(arguments, plan_command)
    command = parse(PlanCommand, rest, f"plan {preset}", PlanCommand(load_preset(preset)))
    if command.bytes is not None and not 0 < command.bytes < float("inf"):
        raise UserError(f"--bytes is {command.bytes}; it must be above 0, and finite.")
    if command.candidates is not None:
        _check_candidates(command, command.candidates)
    if command.output and command.output.is_file() and not command.overwrite:
        raise UserError(f"{command.output} exists; add --overwrite to replace it.")
    if command.output:
        check_new_file(command.output, "--output")
    from bytelm.training.forecast.fit import CANDIDATES, fit
    from bytelm.training.forecast.forecast import forecast
    from bytelm.training.forecast.report import COLUMNS, row_of, text_of, values_of
    from bytelm.training.forecast.topology import find_topology

    topology, options = find_topology(command.topology), ""
    if command.fit:
        count = command.candidates or CANDIDATES
        found, options = fit(
            command.config, topology, say, candidates=count, compiling=command.compile
        )
    else:
        found = forecast(command.config, topology, compiling=command.compile)
    if command.markdown:
        for row in (COLUMNS, ["---"] * len(COLUMNS), row_of(found, preset)):
            say(f"| {' | '.join(row)} |")
    else:
        say(text_of(found, command.bytes))
    if options:
        say(f"the fastest that fits: {options}")
    if command.output:
        write_whole(command.output, json.dumps(values_of(found, command.bytes), indent=2) + "\n")
        say(f"figures: {printable_name(command.output)}")
    return 0


def _check_candidates(command: PlanCommand, candidates: int) -> None:
    if candidates < 1:
        raise UserError(f"--candidates is {candidates}; it must be at least 1.")
    if not (command.fit and command.compile):
        raise UserError(
            "--candidates is how many choices --fit compiles; add --fit, without --no-compile."
        )
