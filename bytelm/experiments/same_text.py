"""Checks that runs read the text that their files hold now, so that a table is of one text."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bytelm.core.errors import UserError
from bytelm.data.run_text import describe_source
from bytelm.data.sources.source import open_source
from bytelm.data.text_record import load_sources
from bytelm.training.experiment import ExperimentConfig


def check_text(runs: Iterable[tuple[Path, ExperimentConfig]]) -> None:
    """Compares the text that runs have read, by their records, with what they would read now.

    Args:
        runs: directory and config of each; those that have not started, and older ones without a
            record, are skipped.

    Raises:
        UserError: for a run whose text, or test split, has changed or is gone.
    """
    known: dict[Any, list[dict[str, Any]]] = {}
    for run_dir, config in runs:
        before = load_sources(run_dir)
        if before is None or config.data.task.makes_text:
            continue
        parts, cache = config.data.source_configs, config.data.cache_path
        sources = tuple(dataclasses.replace(part, weight=1.0) for part in parts)
        if sources not in known:
            known[sources] = [describe_source(open_source(part, cache)) for part in sources]
        for had, has in zip(before, known[sources], strict=False):
            changed = [name for name in ("text", "test") if _differ(had[name], has[name])]
            if changed:
                what = "other text" if "text" in changed else "a run with other text for its test"
                raise UserError(
                    f"{run_dir} is of {what} than {has['name']} holds now, and a table must be of "
                    "one text; put the text back as it was, or choose another --output."
                )


def _differ(had: str | None, has: str | None) -> bool:
    """Whether both are known and differ."""
    return had is not None and has is not None and had != has
