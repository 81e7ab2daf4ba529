"""Options that choose a variant of a config, such as `--data.task pairs` or `--data.files x.txt`.

The variants of a command's default decide its options. So the chosen variants are put into the
default before the other arguments are read.
"""

import copy
import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.data.config import Files, PythonLibrary, Tfds
from bytelm.data.sources.source import SourceConfig

FILE_OPTIONS = ("--data.files", "--data.validation-files", "--data.test-files")
CHOOSES = {"files": "--data.files", "tfds": "--data.dataset"}
"""Options that choose a source by naming it."""
KEPT = ("held_out", "split_above")
"""Fields that a newly named source takes from the old one."""
KEPT_OF_FILES = ("text_key", "script_key", "target_key", "skip_bad")


class Option(NamedTuple):
    """A field of a command, or of a config in it."""

    field: str
    name: str
    """Such as `--data.task`."""
    below: str
    """The prefix of the options of its own fields, such as `--data.task.`."""
    hint: Any
    """Its type, with annotations."""
    value: Any

    @property
    def base(self) -> type[Variant] | None:
        """Its type, if that is a base of variants, not a variant itself."""
        kind = getattr(self.hint, "__origin__", self.hint)
        if not isinstance(kind, type) or not issubclass(kind, Variant):
            return None
        return None if kind.variant_key in vars(kind) else kind


def options_of(config: Any, prefix: str = "--") -> Iterator[Option]:
    """The options of the fields of a dataclass."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        hint, name = hints[field.name], prefix + field.name.replace("_", "-")
        extras = getattr(hint, "__metadata__", ())
        is_flat = any(getattr(extra, "name", None) == "" for extra in extras)  # of tyro.conf.arg
        below = prefix if is_flat else f"{name}."
        yield Option(field.name, name, below, hint, getattr(config, field.name))


def check_files_named(arguments: Sequence[str]) -> None:
    """Raises UserError for an option of files without a value, such as from an unset variable."""
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
    """The default of a command with the chosen variants, and the other arguments.

    Whether the variants fit together is checked when all arguments have been read.

    Raises:
        UserError: for an unknown variant, or an option of a variant that is not chosen.
    """
    found, rest = copy.copy(default), list(arguments)
    for option in options_of(default, prefix):
        if not dataclasses.is_dataclass(value := option.value):
            continue
        if base := option.base:
            value = _chosen(base, value, rest, option.name, option.below)
            _check_options(base, value, rest, option.name, option.below)
        value, rest = choose_variants(value, rest, option.below)
        object.__setattr__(found, option.field, value)
    return found, rest


def variants_help(default: Any, prefix: str = "--") -> str:
    """A line for each option that chooses a variant, with the names of all variants."""
    lines = []
    for option in options_of(default, prefix):
        if not dataclasses.is_dataclass(option.value):
            continue
        below, base = option.below, option.base
        if base is SourceConfig:
            lines.append(f"{below}files FILE... or {below}dataset NAME chooses the source.\n")
        elif base:
            lines.append(f"{option.name} NAME chooses one of {', '.join(sorted(base.variants))}.\n")
        lines.append(variants_help(option.value, below))
    return "".join(lines)


def _chosen(
    base: type[Variant], value: Any, arguments: list[str], name: str, below: str
) -> Variant:
    """The variant that arguments choose, or `value`; removes the choice from the arguments.

    The fields of the base, such as an optimiser's learning rate, keep their values.
    """
    if base is SourceConfig and _names(arguments).keys() & {f"{below}files", f"{below}dataset"}:
        return _named_source(value, arguments, below)
    if (index := _names(arguments).get(name)) is None:
        return value
    kind = base.variant(_take(arguments, index), name.removeprefix("--"))
    if type(value) is kind:
        return value
    shared: list[str] = _field_names(base) if dataclasses.is_dataclass(base) else []
    try:
        return kind(**{field: getattr(value, field) for field in shared})
    except (TypeError, UserError):
        if base is SourceConfig:
            raise UserError(f"choose a source with {below}files or {below}dataset.") from None
        raise UserError(f"{name} {kind.__name__} needs more than options; use a preset.") from None


def _named_source(value: SourceConfig, arguments: list[str], below: str) -> SourceConfig:
    """The source of `--data.files` or `--data.dataset`, with defaults for its other fields.

    It keeps the old sources' splits, and their keys of JSON lines, if all of them agree.
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
    """The fields that have the same value in all parts of a source."""
    values = {name: {getattr(part, name) for part in source.parts} for name in names}
    return {name: found.pop() for name, found in values.items() if len(found) == 1}


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
    """The index of each option."""
    names = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    return {name: index for index, name in enumerate(names) if name.startswith("--")}


def _argument(arguments: Sequence[str], index: int | None) -> str:
    """The value of an option; "" without one."""
    assert index is not None
    _, equals, value = arguments[index].partition("=")
    return value if equals else next(iter(arguments[index + 1 : index + 2]), "")


def _take(arguments: list[str], index: int | None) -> str:
    """Removes an option with its value from the arguments; returns the value."""
    assert index is not None
    value = _argument(arguments, index)
    if not value or value.startswith("--"):
        raise UserError(f"{arguments[index]} needs a name after it.")
    del arguments[index : index + (1 if "=" in arguments[index] else 2)]
    return value
