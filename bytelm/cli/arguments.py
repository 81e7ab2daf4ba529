"""Parses the arguments of commands."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from bytelm.cli import usage
from bytelm.cli.option_checks import check_lists, check_numbers, check_renamed
from bytelm.cli.variant_options import check_files_named, choose_variants, variants_help
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import say
from bytelm.training.presets import preset_names

T = TypeVar("T")
_STYLE = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)
Command = Callable[[Sequence[str]], int]


def parse(kind: type[T], arguments: Sequence[str], program: str, default: Any = None) -> T:
    """Parses a command's options; a mistake ends the program with a message."""
    check_files_named(arguments)
    check_renamed(arguments)
    others = list(arguments)
    if default is not None:
        default, others = choose_variants(default, arguments)
    variants = "" if default is None else variants_help(default)
    if variants:
        variants = f"\n\n{variants}\nThe options of the chosen variants are listed below."
    command = tyro.cli(
        kind,
        args=others,
        prog=f"bytelm {program}",
        default=tyro.MISSING_NONPROP if default is None else default,
        description=f"{inspect.getdoc(kind)}{variants}",
        config=_STYLE,
    )
    check_lists(command, arguments)
    check_numbers(command)
    return command


def parse_part(kind: type[T], arguments: Sequence[str]) -> tuple[T, Sequence[str]]:
    """Parses only the options of `kind`; returns the other arguments too.

    With --help, nothing is parsed here: `parse` then lists all options.
    """
    if {"-h", "--help"} & set(arguments):
        return kind(), arguments
    return tyro.cli(kind, args=list(arguments), return_unknown_args=True, config=_STYLE)


def preset_argument(
    arguments: Sequence[str],
    command: Command | None = None,
    what: str = "preset",
    names: Callable[[], list[str]] = preset_names,
) -> tuple[str | None, Sequence[str]]:
    """The preset that the first argument names, if any, and the other arguments.

    Args:
        arguments: of the command.
        command: if its --help lists the presets.
        what: "preset", "ablation" or "comparison".
        names: lists all of these.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if command is not None and {"-h", "--help"} & set(arguments):
        say(usage.of_preset_command(_name(command), command, what, names()))
        sys.exit(0)
    return None, arguments


def work_argument(
    arguments: Sequence[str], command: Command, kinds: Mapping[str, type[Any]]
) -> str:
    """The first argument, the name of a subcommand (`kinds`)."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        say(usage.of_command(command, kinds))
        sys.exit(0)
    if name not in kinds:
        what = _name(command)
        given = f" (there is no {what} {name!r}{did_you_mean(name, kinds)})" if name else ""
        raise UserError(
            f"say what to do: `bytelm {what} {'|'.join(kinds)} [PRESET] [options]`{given}."
        )
    return name


def _name(command: Command) -> str:
    return command.__name__.removesuffix("_command")
