"""A mistake in the options of a command, as one sentence in place of tyro's box of lines."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tyro

from bytelm.cli.options import names_of
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError

VALUES = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "STR": "a text",
    "PATH": "a path",
    "[INT [INT ...]]": "whole numbers",
    "[FLOAT [FLOAT ...]]": "numbers",
    "[{None}|INT [{None}|INT ...]]": "whole numbers or None",
    "{STR STR}": "two texts",
    "[STR FLOAT [STR FLOAT ...]]": "pairs of a text and a number",
}
"""Words for tyro's names of types."""


@contextlib.contextmanager
def in_a_sentence(arguments: Sequence[str], *known: Iterable[str]) -> Iterator[None]:
    """Within the context, `tyro.cli` raises UserError for a mistake.

    The hook is no stable part of tyro: where it differs, tyro prints its box and exits.

    Args:
        arguments: of the command.
        known: names of options, from which similar ones are suggested: the first names that have
            any.
    """

    def refuse(event: Any) -> None:
        with contextlib.suppress(AttributeError):
            raise UserError(_mistake(event, arguments, known))

    on_parse_error = getattr(getattr(tyro, "_errors", None), "on_parse_error", None)
    with on_parse_error(refuse) if on_parse_error else contextlib.nullcontext():
        yield


def _mistake(event: Any, arguments: Sequence[str], known: Sequence[Iterable[str]]) -> str:
    """What is wrong, from one of tyro's `ParseErrorEvent`."""
    help = f"; `{event.prog} --help` lists all options."
    words = getattr(event, "tokens", []) or getattr(event, "unrecognized_tokens", [])
    if words:
        return _unknown(words, arguments, known) + help
    if missing := getattr(event, "missing_arguments", []):
        names = " and ".join(each.arg.display_name() for each in missing)
        return f"`{event.prog}` needs {names}{help}"
    if event.argument is None:
        return " ".join(event.message.split()) + help
    return _wrong_value(event.argument.display_name(), event.argument.lowered.metavar, arguments)


def _unknown(words: Sequence[str], arguments: Sequence[str], known: Sequence[Iterable[str]]) -> str:
    """For words that belong to no option: a mistyped option, or a value too many."""
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            found = (_similar(name, names) for names in known)
            near = " or ".join(next(filter(None, found), []))
            return f"there is no option {name}" + (f" (did you mean {near}?)" if near else "")
    for option, values in _given(arguments):
        if words[0] in values:
            return f"{option} does not take {words[0]!r}"
    return f"{words[0]!r} belongs to no option"


def _similar(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The options that are spelled almost like one, or end like it, such as --train.steps."""

    def similarity(option: str) -> float:
        return difflib.SequenceMatcher(None, name, option).ratio()

    def ends_alike(option: str) -> bool:
        ends = [each.rpartition(".")[2].removeprefix("--") for each in (name, option)]
        return difflib.SequenceMatcher(None, ends[0], ends[1]).ratio() >= 0.75

    others = {*known} - {name}
    near = [option for option in others if ends_alike(option) or similarity(option) >= 0.9]
    return sorted(near, key=lambda option: (-similarity(option), option))[:most]


def _wrong_value(name: str, metavar: str, arguments: Sequence[str]) -> str:
    """For an option whose value is missing, or not of its type: tyro's `metavar`."""
    wanted: list[str] = []
    for kind in [metavar] if metavar in VALUES else metavar.split("|"):
        is_choice = kind.startswith("{") and kind not in VALUES
        wanted += kind.strip("{}").split(",") if is_choice else [VALUES.get(kind, kind)]
    *others, last = sorted(wanted, key=lambda word: word == "None")
    either = f"{', '.join(others)} or {last}" if others else last
    values = next((values for option, values in _given(arguments) if option == name), [])
    if not values:
        return f"{name} needs a value after it: {either}."
    given = " ".join(values)
    return f"{name} is {given!r}{did_you_mean(given, wanted)}; it must be {either}."


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with the words after it, the last one first."""
    words: list[str] = []
    for argument, name in zip(reversed(arguments), reversed(names_of(arguments)), strict=True):
        if not argument.startswith("--"):
            words.insert(0, argument)
            continue
        _, equals, value = argument.partition("=")
        yield name, [value, *words] if equals else words
        words = []
