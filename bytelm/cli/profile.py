"""`bytelm profile`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bytelm.cli.arguments import name_argument, parse
from bytelm.cli.options import Count
from bytelm.training import host_memory
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.presets import load_preset
from bytelm.training.timing import profile


@dataclass(frozen=True)
class ProfileCommand:
    """Traces a few training steps."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    trace_dir: Path = Path("trace")
    """Where to write the trace (for TensorBoard or Perfetto)."""
    steps: Count = 5
    """Steps to trace, after two that warm up."""


def profile_command(arguments: Sequence[str]) -> int:
    """Traces a few training steps.

    `bytelm profile PRESET [options]`
    """
    preset, rest = name_argument(arguments, profile_command)
    default = ProfileCommand(load_preset(preset))
    command = parse(ProfileCommand, rest, f"profile {preset}", default)

    host_memory.keep()
    profile(command.config, command.trace_dir, command.steps)
    return 0
