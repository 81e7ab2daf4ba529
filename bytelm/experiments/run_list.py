"""Lists the runs in folders, at any depth, with their states; nothing is locked or written."""

import fnmatch
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from bytelm.core.files import write_whole
from bytelm.core.terminal_text import number_of, printable_name
from bytelm.training.metrics.display import format_duration
from bytelm.training.run_status import STATES, RunStatus, is_run, read_status

PLAN = "plan.json"
"""File of an ablation's or a comparison's folder: the runs that are known by now."""
Order = Literal["name", "state", "step", "best", "speed", "age"]


def write_plan(folder: Path, runs: Mapping[Path, int]) -> None:
    """Writes the directories of planned runs, in a folder, and their steps."""
    named = [{"run": str(run.relative_to(folder)), "steps": steps} for run, steps in runs.items()]
    write_whole(folder / PLAN, json.dumps({"runs": named}, indent=2) + "\n")


def find_runs(folder: Path) -> Iterator[RunStatus]:
    """The runs in a folder, those that are only planned too; not those inside another run."""
    try:
        inside = sorted(folder.iterdir(), key=str)
    except OSError:  # another user's, or just removed
        return
    names = {path.name for path in inside}
    if is_run(folder, names):
        yield read_status(folder)
        return
    planned = _planned(folder) if PLAN in names else {}
    for path in inside:
        if path.is_dir() and not path.is_symlink():
            for status in find_runs(path):
                planned.pop(status.run, None)
                yield status
    for run, steps in planned.items():
        yield RunStatus(run, "waiting", step=0, steps=steps)


def _planned(folder: Path) -> dict[Path, int]:
    try:
        saved = json.loads((folder / PLAN).read_bytes())
        return {folder / each["run"]: each["steps"] for each in saved["runs"]}
    except (OSError, ValueError, TypeError, LookupError):
        return {}


def chosen(
    runs: Sequence[RunStatus],
    *,
    states: Sequence[str] = (),
    names: Sequence[str] = (),
    order: Order = "name",
    reverse: bool = False,
) -> list[RunStatus]:
    """The runs of some states, of paths like one of some patterns, in an order.

    Runs without the figure that orders them come last.
    """
    found = [
        run
        for run in runs
        if (not states or run.state in states)
        and (not names or any(_is_like(str(run.run), name) for name in names))
    ]
    key = _ORDERS[order]
    known = [run for run in found if key(run) is not None]
    known.sort(key=lambda run: (key(run), str(run.run)), reverse=reverse)
    return known + sorted((run for run in found if key(run) is None), key=lambda run: str(run.run))


_ORDERS: Mapping[Order, Callable[[RunStatus], Any]] = {
    "name": lambda run: str(run.run),
    "state": lambda run: STATES.index(run.state),
    "step": lambda run: None if run.step is None else -run.step,
    "best": lambda run: run.best,
    "speed": lambda run: None if run.bytes_per_second is None else -run.bytes_per_second,
    "age": lambda run: None if run.progress is None else -run.progress,
}
"""What is smallest comes first: the furthest, best, fastest and latest run."""


def _is_like(path: str, pattern: str) -> bool:
    """Whether a pattern fits a path, or a part of it if it has no wildcards."""
    return pattern in path or fnmatch.fnmatchcase(path, pattern)


def as_json(runs: Sequence[RunStatus]) -> str:
    """The runs as a list of JSON objects; times are in seconds since 1970."""
    now = time.time()
    return json.dumps(
        [
            {
                **asdict(run),
                "run": str(run.run),
                "age_seconds": None if run.progress is None else max(0.0, now - run.progress),
            }
            for run in runs
        ],
        indent=2,
    )


COLUMNS = ("run", "state", "step", "best", "speed", "progress", "last error")


def as_table(runs: Sequence[RunStatus]) -> str:
    """A line for each run, below the names of the columns; then how many there are."""
    rows = [COLUMNS, *map(_cells, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    counts = Counter(run.state for run in runs)
    states = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    return "\n".join([*lines, f"{number_of(len(runs), 'run')}: {', '.join(states)}"])


def _cells(run: RunStatus) -> tuple[str, ...]:
    step = "" if run.step is None else f"{run.step:,}"
    if run.steps:
        step += f" of {run.steps:,}"
    age = "" if run.progress is None else format_duration(max(0.0, time.time() - run.progress))
    at = "" if run.error_step is None else f"step {run.error_step:,}: "
    return (
        printable_name(str(run.run)),
        run.state,
        step,
        "" if run.best is None else f"{run.best:.4f}",
        "" if run.bytes_per_second is None else f"{_short(run.bytes_per_second)}B/s",
        f"{age} ago" if age else "",
        printable_name(f"{at}{run.error}") if run.error and run.state != "done" else "",
    )


def _short(number: float) -> str:
    """Three digits and a prefix of units, such as `9.68 k`."""
    for prefix in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:,.3g} G"
