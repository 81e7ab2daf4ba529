"""Options that choose a variant of a config, such as `--data.task pairs` or `--data.files x.txt`.

The options of a command are those of the variants that its default has. So the variants that
arguments name are put into the default before the other arguments are read.
"""

import copy
import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.data.config import Files, PythonLibrary, Tfds
from bytelm.data.sources.source import SourceConfig

FILE_OPTIONS = ("--data.files", "--data.validation-files", "--data.test-files")
CHOOSES = {"files": "--data.files", "tfds": "--data.dataset"}
"""Options that choose a source by naming it."""
KEPT = ("held_out", "split_above")
KEPT_OF_FILES = ("text_key", "script_key", "target_key", "skip_bad")


def check_files_named(arguments: Sequence[str]) -> None:
    """Raises UserError for an option of files with nothing after it, from an unset variable."""
    for index, argument in enumerate(arguments):
        if argument.replace("_", "-") in FILE_OPTIONS:
            rest = arguments[index + 1 : index + 2]
            if not rest or rest[0].startswith("--"):
                raise UserError(
                    f"{argument} has no file after it; if that is a shell variable, it is empty: "
                    "name the files, or leave the option out."
                )


def choose_variants(
    default: Any, arguments: Sequence[str], prefix: str = "--"
) -> tuple[Any, list[str]]:
    """The default of a command with the variants that arguments choose, and the other arguments.

    What a variant does not go with is checked when all arguments have been read, not here.

    Args:
        default: a dataclass, such as a command.
        arguments: of the command line.
        prefix: of the options of its fields.

    Raises:
        UserError: for a variant that is not known, and an option of a variant that is not chosen.
    """
    found, rest = copy.copy(default), list(arguments)
    hints = typing.get_type_hints(type(default), include_extras=True)
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        if not dataclasses.is_dataclass(value):
            continue
        name, below = option_names(field.name, hints[field.name], prefix)
        base = without_annotation(hints[field.name])
        if isinstance(base, type) and issubclass(base, Variant):
            value = _chosen(base, value, rest, name, below)
            _check_options(base, value, rest, name, below)
        value, rest = choose_variants(value, rest, below)
        object.__setattr__(found, field.name, value)
    return found, rest


def variants_help(default: Any, prefix: str = "--") -> str:
    """A line for each option that chooses a variant, with the names of all variants."""
    lines = []
    hints = typing.get_type_hints(type(default), include_extras=True)
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        if not dataclasses.is_dataclass(value):
            continue
        name, below = option_names(field.name, hints[field.name], prefix)
        base = without_annotation(hints[field.name])
        if isinstance(base, type) and issubclass(base, Variant):
            names = ", ".join(sorted(base.variants))
            if base is SourceConfig:
                lines.append(f"{below}files FILE... or {below}dataset NAME chooses the source.\n")
            else:
                lines.append(f"{name} NAME chooses one of {names}.\n")
        lines.append(variants_help(value, below))
    return "".join(lines)


def option_names(field: str, hint: Any, prefix: str) -> tuple[str, str]:
    """The option of a field, and the prefix of the options of its own fields.

    A field annotated with `tyro.conf.arg(name="")` adds nothing to that prefix.
    """
    name = prefix + field.replace("_", "-")
    extras = getattr(hint, "__metadata__", ())
    is_flat = any(getattr(extra, "name", None) == "" for extra in extras)
    return name, prefix if is_flat else f"{name}."


def without_annotation(hint: Any) -> Any:
    """A type without what `Annotated` adds."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint


def _chosen(
    base: type[Variant], value: Any, arguments: list[str], name: str, below: str
) -> Variant:
    """The variant that arguments choose, or `value`; takes the choice out of the arguments."""
    if base is SourceConfig and _names(arguments).keys() & {f"{below}files", f"{below}dataset"}:
        return _named_source(value, arguments, below)
    found = value
    if (index := _names(arguments).get(name)) is not None:
        kind = base.variant(_take(arguments, index), name.removeprefix("--"))
        try:
            found = value if type(value) is kind else kind(**_shared(base, value))
        except (TypeError, UserError):
            if base is SourceConfig:
                raise UserError(f"choose a source with {below}files or {below}dataset.") from None
            raise UserError(
                f"{name} {kind.__name__} needs more than options; use a preset."
            ) from None
    return found


def _shared(base: type[Variant], value: Variant) -> dict[str, Any]:
    """The fields that all variants have, such as an optimiser's learning rate: they are kept."""
    if not dataclasses.is_dataclass(base):
        return {}
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(base)}


def _named_source(value: SourceConfig, arguments: list[str], below: str) -> SourceConfig:
    """The source that `--data.files` or `--data.dataset` names, with its other values by default.

    How documents are split stays as it is, and so do the keys of JSON lines, if all sources agree.
    """
    files, dataset = (_names(arguments).get(f"{below}{name}") for name in ("files", "dataset"))
    if files is not None and dataset is not None:
        raise UserError(f"{below}files and {below}dataset are two sources; give one of them.")
    if files is not None:
        keys = KEPT_OF_FILES if all(isinstance(part, Files) for part in value.parts) else ()
        # A placeholder, which the option replaces.
        new: SourceConfig = Files(files=("-",), **_common(value, KEPT + keys))
    elif _argument(arguments, dataset) == PythonLibrary.kind:
        _take(arguments, dataset)
        new = PythonLibrary(**_common(value, KEPT))
    else:
        new = Tfds(dataset="-", **_common(value, KEPT))
    return value if type(value) is type(new) else new


def _common(source: SourceConfig, names: Sequence[str]) -> dict[str, Any]:
    """The values in which all parts of a source agree."""
    values = {name: {getattr(part, name) for part in source.parts} for name in names}
    return {name: had.pop() for name, had in values.items() if len(had) == 1}


def _check_options(
    base: type[Variant], value: Any, arguments: Sequence[str], name: str, below: str
) -> None:
    """Raises UserError for an option of a variant that is not chosen."""
    given = _names(arguments)
    fields = {key: _field_names(kind) for key, kind in base.variants.items()}
    own = _field_names(value)
    for names in fields.values():
        for field in names:
            option = below + field.replace("_", "-")
            if field in own or option not in given:
                continue
            kinds = [key for key, others in fields.items() if field in others]
            chosen = getattr(value, base.variant_key, type(value).__name__)
            choose = CHOOSES.get(kinds[0], f"{name} {kinds[0]}")
            raise UserError(
                f"{option} is an option of {' and '.join(kinds)}, and {name.removeprefix('--')} is "
                f"{chosen}; add {choose}, or leave it out."
            )


def _field_names(config: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def _names(arguments: Sequence[str]) -> dict[str, int]:
    """Where each option is."""
    names = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    return {name: index for index, name in enumerate(names) if name.startswith("--")}


def _argument(arguments: Sequence[str], index: int | None) -> str:
    """What an option is given; "" if it has no value."""
    assert index is not None
    _, equals, value = arguments[index].partition("=")
    return value if equals else next(iter(arguments[index + 1 : index + 2]), "")


def _take(arguments: list[str], index: int | None) -> str:
    """Takes an option with its value out of the arguments; returns the value."""
    assert index is not None
    value = _argument(arguments, index)
    if not value or value.startswith("--"):
        raise UserError(f"{arguments[index]} needs a name after it.")
    del arguments[index : index + (1 if "=" in arguments[index] else 2)]
    return value
