"""The command line: `bytelm train|eval|generate|segment|...` (and train.py, eval.py)."""

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from bytelm.cli import usage
from bytelm.core import fallible_output
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError, first_line
from bytelm.core.places import is_of_store
from bytelm.core.stopping import StopSignals
from bytelm.core.terminal_text import escape_unwritable, log_to_terminal, printable, say

COMMANDS = """
train plan eval generate segment compress decompress ablate compare
results runs data tokenizer convert profile
""".split()
"""Each is the function `NAME_command` of the module of its name."""

TRAINING = ("train", "ablate", "compare")
"""Commands that continue when they can no longer print."""

COMPILING = "eval generate segment compress decompress ablate compare profile".split()
"""Commands that keep what they compile; `train` does so itself."""


def main(arguments: Sequence[str] | None = None) -> int:
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


def command(name: str) -> Callable[[Sequence[str]], int]:
    """The function of a command, whose module is imported when it is needed."""
    return getattr(importlib.import_module(f"bytelm.cli.{name}"), f"{name}_command")


def _run(arguments: Sequence[str]) -> int:
    try:
        if not arguments or arguments[0] in usage.HELP:
            say(usage.overview({name: command(name) for name in COMMANDS}))
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
        if name in COMPILING:
            from bytelm.core import compilation_cache  # imports JAX

            compilation_cache.keep_programs()
        with fallible_output.may_fail() if name in TRAINING else contextlib.nullcontext():
            return command(name)(arguments[1:])
    except BrokenPipeError:  # the reader of our output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        return 2
    except OSError as error:
        is_of_file = error.filename is not None and error.strerror is not None
        what = f"{error.filename}: {error.strerror}" if is_of_file else str(error)
        say(f"error: {what}", sys.stderr)
        return 2
    except Exception as error:
        if not is_of_store(error):
            raise
        say(f"error: an address cannot be used: {first_line(error)}", sys.stderr)
        return 2
