"""The command line: `bytelm train|eval|generate|segment|...` (and train.py, eval.py)."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from bytelm.cli import usage
from bytelm.cli.ablate import ablate_command
from bytelm.cli.compare import compare_command
from bytelm.cli.convert import convert_command
from bytelm.cli.data import data_command
from bytelm.cli.evaluate import eval_command
from bytelm.cli.generate import generate_command
from bytelm.cli.profile import profile_command
from bytelm.cli.segment import segment_command
from bytelm.cli.tokenizer import tokenizer_command
from bytelm.cli.train import train_command
from bytelm.core import compilation_cache, fallible_output
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.stopping import Stopped, StopSignals
from bytelm.core.terminal_text import escape_unwritable, log_to_terminal, printable, say

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
"""Commands that continue when they can no longer print."""


def main(arguments: Sequence[str] | None = None) -> int:
    """`run_command`; a signal gives an exit status too, not an exception."""
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
    # Orbax and TFDS log too much; they raise real problems as exceptions.
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
    except BrokenPipeError:  # the reader of our output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        say(f"error: {error}", sys.stderr)
        return 2
