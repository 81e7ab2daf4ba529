"""Options that choose a variant of a config, such as `--data.task pairs` or `--data.files x.txt`.

The variants of a command's default decide its options. So the chosen variants are put into the
default before the other arguments are read.
"""

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from bytelm.cli.options import Option, all_options, configs_in, dashed, names_of, options_of
from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.data.config import Files, HuggingFace, PythonLibrary, Tfds
from bytelm.data.sources.hugging_face import PREFIX
from bytelm.data.sources.source import SourceConfig

FILE_OPTIONS = ("--data.files", "--data.validation-files", "--data.test-files")
CHOOSES = {
    "files": "--data.files",
    "hugging_face": "--data.dataset hf:NAME",
    "tfds": "--data.dataset",
}
"""Options that choose a source by naming it."""
MOST_NAMED = 3
"""Variants that an error names one by one."""
KEPT = ("held_out", "split_above")
"""Fields that a newly named source takes from the old one."""
KEPT_OF_FILES = ("text_key", "script_key", "target_key", "skip_bad")


def check_files_named(arguments: Sequence[str]) -> None:
    """Raises UserError for an option of files without a value, such as from an unset variable."""
    for index, argument in enumerate(arguments):
        if dashed(argument) in FILE_OPTIONS:
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
            value = _chosen(base, option, rest)
            _check_options(base, option, value, rest)
        value, rest = choose_variants(value, rest, option.below)
        object.__setattr__(found, option.field, value)
    return found, rest


def variants_help(default: Any) -> str:
    """A line for each option that chooses a variant, with the names of all variants."""
    lines = []
    for option in configs_in(default):
        if (base := option.base) is SourceConfig:
            files, dataset = (f"{option.below}{name}" for name in ("files", "dataset"))
            lines.append(f"{files} FILE... or {dataset} NAME chooses the source.\n")
        elif base:
            lines.append(f"{option.name} NAME chooses one of {', '.join(sorted(base.variants))}.\n")
    return "".join(lines)


def option_names(config: Any) -> tuple[list[str], list[str]]:
    """The names of a config's options, and those of variants that are not chosen."""
    bases = [option for option in configs_in(config) if option.base]
    own = [option.spelling for option in all_options(config)] + [base.name for base in bases]
    return own, [name for each in bases if each.base for name in _owners(each.base, each.below)]


def _chosen(base: type[Variant], option: Option, arguments: list[str]) -> Variant:
    """The variant that arguments choose, or the default; removes the choice from the arguments.

    The fields of the base, such as an optimiser's learning rate, keep their values.
    """
    name, below, value = option.name, option.below, option.value
    if base is SourceConfig and {f"{below}files", f"{below}dataset"} & {*names_of(arguments)}:
        return _named_source(value, arguments, below)
    if (chosen := _take(arguments, name)) is None:
        return value
    kind = base.variant(chosen, name.removeprefix("--"))
    if type(value) is kind:
        return value
    shared: Iterable[Any] = dataclasses.fields(base) if dataclasses.is_dataclass(base) else ()
    try:
        return kind(**{field.name: getattr(value, field.name) for field in shared})
    except (TypeError, UserError):
        if base is SourceConfig:
            raise UserError(f"choose a source with {below}files or {below}dataset.") from None
        raise UserError(f"{name} {kind.__name__} needs more than options; use a preset.") from None


def _named_source(value: SourceConfig, arguments: list[str], below: str) -> SourceConfig:
    """The source of `--data.files` or `--data.dataset`, with defaults for its other fields.

    It keeps the old sources' splits, and their keys of JSON lines, if all of them agree.
    """
    dataset = _take(arguments, f"{below}dataset")
    if f"{below}files" in names_of(arguments):
        if dataset is not None:
            raise UserError(f"{below}files and {below}dataset are two sources; give one of them.")
        keys = KEPT_OF_FILES if all(isinstance(part, Files) for part in value.parts) else ()
        # A placeholder, which the option replaces.
        new: SourceConfig = Files(files=("-",), **_common(value, KEPT + keys))
        return value if isinstance(value, Files) else new
    if dataset == PythonLibrary.kind:
        new = PythonLibrary(**_common(value, KEPT))
        return value if isinstance(value, PythonLibrary) else new
    kind = HuggingFace if str(dataset).startswith(PREFIX) else Tfds
    base = value if isinstance(value, kind) else kind(dataset="-", **_common(value, KEPT))
    return dataclasses.replace(base, dataset=str(dataset))


def _common(source: SourceConfig, names: Sequence[str]) -> dict[str, Any]:
    """The fields that have the same value in all parts of a source."""
    values = {name: {getattr(part, name) for part in source.parts} for name in names}
    return {name: found.pop() for name, found in values.items() if len(found) == 1}


def _check_options(
    base: type[Variant], option: Option, value: Any, arguments: Sequence[str]
) -> None:
    """Raises UserError for an option of a variant that is not chosen."""
    own = {option.below + dashed(field.name) for field in dataclasses.fields(value)}
    owners = _owners(base, option.below)
    for name in names_of(arguments):
        # An option below one that this variant lacks, such as --model.draft.heads.
        parts = name.removeprefix(option.below).split(".")
        above = (option.below + ".".join(parts[:count]) for count in range(1, len(parts) + 1))
        if (found := next((each for each in above if each in owners), None)) in (None, *own):
            continue
        kinds = owners[str(found)]
        chosen = getattr(value, base.variant_key, type(value).__name__)
        if len(kinds) > MOST_NAMED:
            raise UserError(
                f"{option.name.removeprefix('--')} {chosen} has no {found}; leave {name} out, or "
                f"choose another {option.name}, such as {kinds[0]}."
            )
        choose = CHOOSES.get(kinds[0], f"{option.name} {kinds[0]}")
        raise UserError(
            f"{name} is an option of {' and '.join(kinds)}, and {option.name.removeprefix('--')} "
            f"is {chosen}; add {choose}, or leave it out."
        )


def _owners(base: type[Variant], below: str) -> dict[str, list[str]]:
    """The options of all variants, each with the names of the variants that have it."""
    owners: dict[str, list[str]] = {}
    for key, kind in base.variants.items():
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            owners.setdefault(below + dashed(field.name), []).append(key)
    return owners


def _take(arguments: list[str], name: str) -> str | None:
    """Removes an option with its value from the arguments; returns the value, None without it."""
    value = None
    while name in (names := names_of(arguments)):
        index = names.index(name)
        given, equals, value = arguments[index].partition("=")
        if not equals:
            value = next(iter(arguments[index + 1 : index + 2]), "")
        if not value or value.startswith("--"):
            raise UserError(f"{given} needs a name after it.")
        del arguments[index : index + (1 if equals else 2)]
    return value
