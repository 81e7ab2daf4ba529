"""The file of an evaluation's report. Its name shows the settings; no file is ever replaced."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from bytelm.core.config_json import to_dict
from bytelm.core.files import absolute, name_part, write_new, write_next
from bytelm.data.config import DataConfig

LONGEST_OPTION = 40
"""Characters of an option's value in a report's name."""


def report_name(
    step: int, text: str, data: DataConfig, trained_on: DataConfig, **options: Any
) -> str:
    """The name of a report, with all settings that change its figures.

    Args:
        step: of the checkpoint.
        text: name of the scored text, such as a split; "" for none.
        data: how the text was read. If that differs from training, the name has a digest of it,
            which distinguishes files of the same name in different folders.
        trained_on: how the run read its text.
        options: other settings by name; those that are None are left out.
    """
    parts = [f"eval_step_{step}", *([name_part(text)] if text else [])]
    if data.sequence_length != trained_on.sequence_length:
        parts.append(f"context-{data.sequence_length}")
    parts += [
        f"{name.replace('_', '-')}-{name_part(_words(value))}"
        for name, value in options.items()
        if value is not None
    ]
    if (digest := _digest(data)) != _digest(trained_on):
        parts.append(digest)
    return "_".join(parts) + ".json"


def write_report(report: dict[str, Any], output: Path | None, default: Path) -> Path:
    """Writes a report as JSON, whole or not at all, and returns the file.

    Args:
        report: the figures.
        output: a file that does not exist; None for `default`.
        default: gets a number if the name is taken.
    """
    content = json.dumps(report, indent=2) + "\n"
    if output is None:
        return write_next(default, content)
    write_new(output, content)
    return output


def _words(value: Any) -> str:
    """An option's value, or its values; a digest where that would make the name too long."""
    words = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return words if len(words) <= LONGEST_OPTION else _hex(words)


def _digest(data: DataConfig) -> str:
    """Digest of everything that decides which text is read, with absolute file names."""
    sources = [
        dataclasses.replace(source.with_files(absolute), weight=1.0)
        for source in data.source_configs
    ]
    fields = [[to_dict(source) for source in sources], to_dict(data.task), data.scripts]
    return _hex(json.dumps(fields, sort_keys=True))


def _hex(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
