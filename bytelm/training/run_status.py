"""The state of a run, from the files of its directory; nothing is locked or written."""

import contextlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bytelm.core.errors import UserError
from bytelm.core.locks import is_held
from bytelm.core.places import is_address
from bytelm.training.checkpoints.checkpoint import last_step
from bytelm.training.checkpoints.digests import LOOP
from bytelm.training.checkpoints.scores import FOLDER
from bytelm.training.compatibility import check_checkpoints_are_there
from bytelm.training.last_error import LastError, read_last_error
from bytelm.training.metrics.writer import read_last_records, read_records
from bytelm.training.run_directory import CONFIG, LOCK
from bytelm.training.upgrades import SCHEMA

State = Literal["running", "waiting", "stopped", "failed", "damaged", "done"]
"""Of a run: a process works on it; planned, and not begun; left before its end, and can be resumed;
ended by an error; cannot be read or resumed as it is; trained to its end."""
STATES: tuple[State, ...] = get_args(State)
METRICS = "metrics.jsonl"
SIGNS = {FOLDER, METRICS, "run.json"}
"""Names of which every directory of a run that has begun has one."""
VALIDATIONS = ("validation_bpb", "validation_bits_per_target_byte")
TAIL = 2**15
"""Bytes at the end of the metrics that are read."""
SILENCE = 900.0
"""Seconds without progress after which a run on another machine no longer counts as running, where
the file system does not show that machine's locks."""


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        step: of the last record or checkpoint.
        steps: of the whole run; None if its config cannot be read.
        best: the fewest bits per (target) byte of its validations.
        bytes_per_second: of training, in the last record.
        progress: when it last recorded something, in seconds since 1970.
        error: what last went wrong, as a sentence.
        error_step: the step by then.
        error_time: when, in seconds since 1970.
    """

    run: Path
    state: State
    step: int | None = None
    steps: int | None = None
    best: float | None = None
    bytes_per_second: float | None = None
    progress: float | None = None
    error: str | None = None
    error_step: int | None = None
    error_time: float | None = None


def is_run(folder: Path, names: set[str]) -> bool:
    """Whether a folder with these names in it is the directory of a run that has begun."""
    if SIGNS & names:
        return True
    return names == {LOCK} and is_held(folder / LOCK) is True


def is_trained(run: Path, steps: int) -> bool:
    """Whether a run has the checkpoint of its last step, and the validation after it.

    A signal during that validation leaves it to the process that resumes the run.
    """
    return last_step(run) == steps and _is_validated(_last_records(run), steps)


def _is_validated(records: Sequence[Mapping[str, Any]], steps: int) -> bool:
    """Whether the last records hold the last validation; True if there are none at all."""
    return not records or any(
        record["step"] >= steps and any(name in record for name in VALIDATIONS)
        for record in records
    )


def read_status(run: Path) -> RunStatus:
    """How far the run in a directory is; a run that cannot be read is damaged."""
    try:
        return _status(run)
    except OSError as error:
        reason = f"{error.filename or run} cannot be read: {error.strerror or error}"
    except (ValueError, TypeError, LookupError) as error:
        reason = f"a file in it is damaged: {error}"
    return RunStatus(run, "damaged", error=reason)


def _status(run: Path) -> RunStatus:
    saved, records = last_step(run), _last_records(run)
    step = max([saved or 0, *(record["step"] for record in records[-1:])])
    steps, damage, schema = _planned_steps(run, saved, has_begun=step > 0)
    found = RunStatus(
        run,
        "stopped",
        step=step,
        steps=steps,
        best=_best(run, saved, records),
        bytes_per_second=_last(records, "bytes_per_second"),
        progress=_last(records, "time") or _modified(run),
    )
    error = read_last_error(run)
    if error is not None:
        found = replace(found, error=error.sentence, error_step=error.step, error_time=error.time)
    if _is_running(run, found.progress, records):
        return replace(found, state="running")
    if damage is not None:
        return replace(found, state="damaged", error=damage, error_step=None, error_time=None)
    if _failed(error, found, "test"):
        return replace(found, state="failed")
    is_saved = steps is not None and saved is not None and saved >= steps
    if is_saved and _is_validated(records, steps or 0):
        return replace(found, state="done")
    if schema > SCHEMA:
        newer = f"its {CONFIG} has schema {schema}, which a newer version of bytelm can resume"
        return replace(found, state="damaged", error=newer, error_step=None, error_time=None)
    if _failed(error, found, "training"):
        return replace(found, state="failed")
    process = (run / LOCK).read_text(errors="replace") if (run / LOCK).exists() else ""
    if process and not is_address(run):
        killed = f"{process} ended without a word: it was killed, or its machine went down"
        return replace(found, error=killed, error_step=None, error_time=None)
    return found


def _planned_steps(
    run: Path, saved: int | None, *, has_begun: bool
) -> tuple[int | None, str | None, int]:
    """The steps in a run's config; what is damaged, if anything; the config's schema."""
    try:
        content = (run / CONFIG).read_bytes()
    except FileNotFoundError:
        return None, f"its {CONFIG} is missing" if has_begun else None, 0
    try:
        config = json.loads(content)
        steps, schema = int(config["train"]["steps"]), int(config.get("schema", 0))
    except (ValueError, TypeError, LookupError):
        return None, f"its {CONFIG} is no config of a run", 0
    if saved is None:
        try:
            check_checkpoints_are_there(run, None)
        except UserError as error:
            return steps, str(error), schema
    return steps, None, schema


def _last_records(run: Path) -> list[dict[str, Any]]:
    try:
        return read_last_records(run / METRICS, TAIL)
    except FileNotFoundError:
        return []


def _last(records: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The last value of a figure in some records."""
    found = (record[name] for record in reversed(records) if record.get(name) is not None)
    return next(map(float, found), None)


def _best(run: Path, saved: int | None, records: Sequence[Mapping[str, Any]]) -> float | None:
    """The fewest validation bits: until the last checkpoint, which has them, and in the records."""
    found = [record[name] for record in records for name in VALIDATIONS if name in record]
    try:
        loop = json.loads((run / FOLDER / str(saved) / LOOP / "metadata").read_bytes())
        found.append(loop["best_validation"])
    except (OSError, ValueError, TypeError, LookupError):
        with contextlib.suppress(FileNotFoundError):
            everything = read_records(run / METRICS)
            found = [line[name] for line in everything for name in VALIDATIONS if name in line]
    return min((bits for bits in found if bits is not None), default=None)


def _modified(run: Path) -> float | None:
    """When a file in a directory was last changed, in seconds since 1970."""
    times = []
    for path in run.iterdir():
        with contextlib.suppress(OSError, AttributeError, NotImplementedError):
            times.append(path.stat().st_mtime)
    return max(times, default=None)


def _is_running(run: Path, progress: float | None, records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a process holds the lock; where that cannot be known, whether it was active lately.

    Lately is within `SILENCE`, or three times the longest pause between the last records.
    """
    held = is_held(run / LOCK)
    if held is not None or progress is None:
        return bool(held)
    times = [record["time"] for record in records if "time" in record]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    return time.time() - progress < max(SILENCE, 3 * max(pauses, default=0.0))


def _failed(error: LastError | None, found: RunStatus, during: str) -> bool:
    """Whether an error was the last that happened to a run."""
    if error is None or error.stopped or error.during != during:
        return False
    return found.progress is None or error.time >= found.progress
