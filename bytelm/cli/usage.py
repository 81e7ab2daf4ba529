"""Texts of `--help` and `--version`, and the option `--import`, which every command has."""

import inspect
import platform
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import bytelm
from bytelm.core.errors import UserError
from bytelm.core.user_code import import_user_code

HELP = {"-h", "--help"}
EVERYWHERE = """
Every command takes --help, which lists its options, and --import FILE, which first runs a Python
file of your own (or imports a module), such as one that defines a family of models, a boundary rule
or an evaluation."""


def overview(commands: Mapping[str, Callable[..., Any]]) -> str:
    """The list of all commands, with the first and last lines of their docstrings."""
    parts = ["bytelm trains, evaluates and samples byte-level language models.\n"]
    for name, command in commands.items():
        does, usage = _docstring(command)
        parts.append(f"  {name:10} {does}\n{'':13}{usage}")
    return "\n".join([*parts, EVERYWHERE, "bytelm --version prints the version."])


def of_command(command: Callable[..., Any], kinds: Mapping[str, type] | None = None) -> str:
    """The help of a command and its subcommands (`kinds`), if any."""
    does, usage = _docstring(command)
    lines = [f"usage: {usage}", "", does]
    for name, kind in (kinds or {}).items():
        lines.append(f"  {name:10} {inspect.getdoc(kind).splitlines()[0]}")  # type: ignore[union-attr]
    return "\n".join([*lines, EVERYWHERE])


def of_preset_command(command: Callable[..., Any], what: str, names: Sequence[str]) -> str:
    """The help of a command that needs a preset (or an ablation, ...), with a list of them."""
    width = min(100, shutil.get_terminal_size().columns)
    listed = textwrap.wrap(", ".join(names), width, break_on_hyphens=False)
    usage = f"`bytelm {name_of(command)} {what.upper()} --help`"
    lists = (
        f"{usage} lists the options of one of these {what}s, or\nof a path to a file of your own:"
    )
    return "\n".join([of_command(command), "", lists, *listed])


def name_of(command: Callable[..., Any]) -> str:
    """The word that calls a command: `train` for `train_command`."""
    return command.__name__.removesuffix("_command")


def _docstring(command: Callable[..., Any]) -> tuple[str, str]:
    lines = (inspect.getdoc(command) or "").splitlines()
    return lines[0], lines[-1].strip("`")


def versions() -> str:
    """The versions of bytelm, JAX and Python."""
    return f"bytelm {bytelm.__version__}, JAX {version('jax')}, Python {platform.python_version()}"


def import_named(arguments: Sequence[str]) -> list[str]:
    """Imports the files and modules that `--import` names; returns the other arguments.

    Raises:
        UserError: if a name is missing or cannot be imported.
    """
    others, words = [], iter(arguments)
    for word in words:
        option, equals, name = word.partition("=")
        if option != "--import":
            others.append(word)
            continue
        name = name if equals else next(words, "")
        if not name or name.startswith("-"):
            raise UserError("--import needs the name of a Python file or of a module.")
        import_user_code(name)
    return others
