"""The file of an evaluation's report: its name has the settings, and no other is replaced."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from bytelm.core.config_json import to_dict
from bytelm.core.file_names import name_part
from bytelm.core.output_files import write_new, write_next
from bytelm.data.config import DataConfig

_OF_SPEED = ("batch_size", "cache_dir", "workers", "weight")
"""Fields of a `DataConfig` that change no figure."""


def report_name(
    step: int, text: str, data: DataConfig, trained_on: DataConfig, **options: Any
) -> str:
    """The name of a report, in which all settings are that change its figures.

    Args:
        step: of the checkpoint.
        text: what was scored, such as a split.
        data: how the text was read; where that is not as in training, a digest of it is in the
            name, which tells apart files of one name in different folders.
        trained_on: how the run read its text.
        options: other settings by name; those that are None are left out.
    """
    parts = [f"eval_step_{step}", name_part(text)]
    if data.sequence_length != trained_on.sequence_length:
        parts.append(f"context-{data.sequence_length}")
    parts += [
        f"{name.replace('_', '-')}-{name_part(str(value))}"
        for name, value in options.items()
        if value is not None
    ]
    if (digest := _digest(data)) != _digest(trained_on):
        parts.append(digest)
    return "_".join(parts) + ".json"


def write_report(report: dict[str, Any], output: Path | None, default: Path) -> Path:
    """Writes a report as JSON; the file appears whole or not at all.

    Args:
        report: the figures.
        output: the file, which must not exist; None for `default`.
        default: where else the report goes: there, or the first free name with a number.

    Returns:
        the file.

    Raises:
        OSError: if it cannot be written.
    """
    content = json.dumps(report, indent=2) + "\n"
    if output is None:
        return write_next(default, content)
    write_new(output, content)
    return output


def _digest(data: DataConfig) -> str:
    """Of all that decides which text is read, with file names made absolute."""

    def plain(fields: dict[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in fields.items() if name not in _OF_SPEED}
        for name in ("files", "validation_files", "test_files"):
            found[name] = [os.path.abspath(os.path.expanduser(file)) for file in found[name]]
        return found

    # The length of rows has a place of its own in the name.
    fields = plain(to_dict(dataclasses.replace(data, sequence_length=1024)))
    fields["mixture"] = [plain(source) for source in fields["mixture"]]
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=4).hexdigest()
