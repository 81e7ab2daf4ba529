"""What `--data.files` and `--data.dataset` mean on a command line: they replace the sources."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig, SourceConfig

FILE_OPTIONS = ("--data.files", "--data.validation-files", "--data.test-files")
OF_ANY_KIND = ("held_out", "split_above", "skip_bad")
OF_FILES = ("text_key", "script_key", "target_key")


def check_files_named(arguments: Sequence[str]) -> None:
    """Raises UserError for an option of files with nothing after it, as an unset variable makes."""
    for place, argument in enumerate(arguments):
        if argument.replace("_", "-") in FILE_OPTIONS:
            rest = arguments[place + 1 : place + 2]
            if not rest or rest[0].startswith("--"):
                raise UserError(
                    f"{argument} has no file after it; if that is a shell variable, it is empty: "
                    "name the files, or leave the option out."
                )


def with_named_source(data: DataConfig, arguments: Sequence[str]) -> DataConfig:
    """The config that options change: without its sources, where options name one of another kind.

    How documents are split stays, and the keys of JSON lines, where all sources agree on them.
    """
    named = {argument.partition("=")[0] for argument in arguments}
    if "--data.files" in named and (data.mixture or not data.files):
        # A placeholder, which the option replaces.
        keys = OF_FILES if all(source.files for source in data.source_configs) else ()
        return _with_source(data, {"files": ("-",)}, OF_ANY_KIND + keys)
    if "--data.dataset" in named and (data.mixture or data.files):
        return _with_source(data, {}, OF_ANY_KIND)
    return data


def _with_source(data: DataConfig, source: dict[str, Any], kept: Sequence[str]) -> DataConfig:
    """The config with one source of default values, but for those that all its sources have."""
    values: dict[str, Any] = {
        field.name: field.default for field in dataclasses.fields(SourceConfig)
    }
    for name in kept:
        had = {getattr(each, name) for each in data.source_configs}
        values[name] = had.pop() if len(had) == 1 else values[name]
    return dataclasses.replace(data, mixture=(), **values | source)
