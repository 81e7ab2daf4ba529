"""Parses the arguments of commands."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from bytelm.cli import usage
from bytelm.cli.mistakes import in_a_sentence
from bytelm.cli.options import check_lists, check_numbers, check_places, check_renamed
from bytelm.cli.variant_options import (
    check_files_named,
    choose_variants,
    option_names,
    variants_help,
)
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.places import is_place, place
from bytelm.core.terminal_text import say
from bytelm.training.presets import preset_names, some_names

T = TypeVar("T")
Command = Callable[[Sequence[str]], int]
PLACES = tyro.constructors.ConstructorRegistry()
"""How tyro reads paths, which may be addresses."""
STYLE = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)


@PLACES.primitive_rule
def _places(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: place(words[0]),
        is_instance=is_place,
        str_from_instance=lambda path: [str(path)],
    )


def parse(kind: type[T], arguments: Sequence[str], program: str, default: Any = None) -> T:
    """Parses a command's options; --help ends the program.

    Raises:
        UserError: for a mistake.
    """
    check_files_named(arguments)
    check_renamed(arguments)
    others, variants = arguments, ""
    if default is not None:
        default, others = choose_variants(default, arguments)
        variants = variants_help(default)
    if variants:
        variants = f"\n\n{variants}\nThe options of the chosen variants are listed below."
    own, of_others = option_names(kind if default is None else default)
    with in_a_sentence(arguments, ["--help", "--import", *own], of_others):
        command = tyro.cli(
            kind,
            args=others,
            prog=f"bytelm {program}",
            default=tyro.MISSING_NONPROP if default is None else default,
            description=f"{inspect.getdoc(kind)}{variants}",
            config=STYLE,
            registry=PLACES,
        )
    check_lists(command, arguments)
    check_places(command)
    check_numbers(command)
    return command


def parse_part(kind: type[T], arguments: Sequence[str], program: str) -> tuple[T, Sequence[str]]:
    """Parses only the options of `kind`; returns the other arguments too, such as --help."""
    with in_a_sentence(arguments):
        return tyro.cli(
            kind,
            args=arguments,
            prog=f"bytelm {program}",
            return_unknown_args=True,
            add_help=False,
            config=STYLE,
            registry=PLACES,
        )


def preset_argument(arguments: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The preset that the first argument names, if any, and the other arguments."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return None, arguments


def name_argument(
    arguments: Sequence[str],
    command: Command,
    what: str = "preset",
    names: Callable[[], list[str]] = preset_names,
    *,
    instead: str = "",
) -> tuple[str, Sequence[str]]:
    """The first argument, the name of a preset, and the other arguments; --help lists all names.

    Args:
        arguments: of the command.
        command: for its help.
        what: "preset", "ablation" or "comparison".
        names: lists all of these.
        instead: what one may give in its place, for the error.

    Raises:
        UserError: if there is none.
    """
    name, rest = preset_argument(arguments)
    if name is not None:
        return name, rest
    if usage.HELP & set(arguments):
        say(usage.of_preset_command(command, what, names()))
        sys.exit(0)
    article = "an" if what.startswith("a") else "a"
    raise UserError(
        f"name {article} {what} or the path of a file first{instead}{some_names(names())}."
    )


def work_argument(
    arguments: Sequence[str], command: Command, kinds: Mapping[str, type[Any]]
) -> str:
    """The first argument, the name of a subcommand (`kinds`)."""
    name = arguments[0] if arguments else ""
    if name in usage.HELP:
        say(usage.of_command(command, kinds))
        sys.exit(0)
    if name not in kinds:
        what = f"bytelm {usage.name_of(command)}"
        wrong = f"there is no `{what} {name}`{did_you_mean(name, kinds)}; " if name else ""
        raise UserError(f"{wrong}say what to do: `{what} {'|'.join(kinds)} [PRESET] [options]`.")
    return name
