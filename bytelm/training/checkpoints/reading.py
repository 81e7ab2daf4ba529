"""Reading checkpoints that may be damaged: the latest one that is intact."""

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp

from bytelm.core.errors import UserError, first_line
from bytelm.training.checkpoints.digests import DIGESTS, LOOP, check, digest_arrays, digest_json
from bytelm.training.checkpoints.scores import FOLDER
from bytelm.training.checkpoints.staging import StagedCheckpoints
from bytelm.training.distributed import gather_json
from bytelm.training.experiment import ExperimentConfig, from_saved
from bytelm.training.metrics.record import LoopState
from bytelm.training.upgrades import Moves, move_parameters, moved_parameters, restore_parameters

T = TypeVar("T")

_STRAGGLERS = ("Event loop is closed", "Encountered error while reading array index")
"""Beginnings of messages of abandoned reads and writes."""


class CheckpointReader:
    """Reads the items of one checkpoint, and compares them with its digests.

    All processes must read the same items in the same order. If one cannot read an item, all fail.
    The methods raise ValueError if an item differs from its digest, and the storage layers' own
    exceptions for files that cannot be read.

    Args:
        manager: of all checkpoints of the run.
        folder: of this checkpoint; its name is the step.
        verify: whether to compare; a checkpoint without digests is read with a warning.
        staged: the copy of a folder at an address, where the manager reads.
    """

    def __init__(
        self,
        manager: ocp.CheckpointManager,
        folder: Path,
        *,
        verify: bool,
        staged: StagedCheckpoints | None = None,
    ):
        self._manager, self.folder, self.step = manager, folder, int(folder.name)
        self._staged = staged
        self._saved: Any = None
        self._moves: Moves = ()
        if not verify:
            return
        if (folder / DIGESTS).exists():
            self._saved = self._read(DIGESTS, ocp.args.JsonRestore())
        else:
            warnings.warn(
                f"checkpoint {folder} has no digests, so damage to it would not be noticed; it "
                "was written by an older version.",
                stacklevel=2,
            )

    def json(self, item: str) -> Any:
        """An item of JSON values."""
        value = self._read(item, ocp.args.JsonRestore())
        if self._saved is not None:
            check(self._saved, digest_json(item, value))
        return value

    def config(self) -> ExperimentConfig:
        """The config, upgraded from an older schema if needed."""
        saved = self.json("config")
        config = from_saved(saved)
        self._moves = moved_parameters(saved)
        return config

    def loop(self, provenance: dict[str, Any]) -> LoopState | None:
        """The state of the training loop, None for a model that was not trained by bytelm.

        Earlier versions kept it in the checkpoint's provenance.
        """
        if (self.folder / LOOP).exists():
            return LoopState.restored(self.json(LOOP))
        return LoopState.from_provenance(provenance)

    def arrays(self, item: str, target: Any) -> Any:
        """An item of arrays, with the shapes and shardings of `target`.

        Call it after `config`, which decides the old paths of parameters.
        """
        old = restore_parameters(target, self._moves)
        value = self._read(item, ocp.args.StandardRestore(old), old)
        if self._saved is not None:
            check(self._saved, digest_arrays(item, value))
        return move_parameters(value, self._moves)

    def _read(self, item: str, how: ocp.args.CheckpointArgs, arrays: Any = None) -> Any:
        value, failure = None, None
        try:
            if self._staged is not None:
                self._staged.fetch_item(self.step, item, arrays)
            value = self._manager.restore(self.step, args=ocp.args.Composite(**{item: how}))[item]
        except Exception as error:
            failure = error
        failures = gather_json(None if failure is None else first_line(failure))
        if failure is not None:
            raise failure
        if any(failures):
            raise ValueError(f"another process cannot read it: {next(filter(None, failures))}")
        return value


def first_readable(
    manager: ocp.CheckpointManager,
    run: Path,
    step: int | None,
    read: Callable[[CheckpointReader], T],
    *,
    verify: bool,
    staged: StagedCheckpoints | None = None,
) -> T:
    """What `read` makes of a checkpoint.

    Args:
        step: of the checkpoint; None for the last one that can be read, with a warning for later
            ones.
        verify: whether to compare it with its digests.
        staged: the copy of a folder at an address.

    Raises:
        UserError: if there is none of that step, or none can be read.
    """
    hush_stragglers()
    folder = run.absolute() / FOLDER
    for number in sorted(chosen(run, manager.all_steps(), step), reverse=True):
        try:
            place = folder / str(number)
            return read(CheckpointReader(manager, place, verify=verify, staged=staged))
        except (UserError, PermissionError, MemoryError):
            raise
        except Exception as error:  # of the storage layers, for damaged files
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            warnings.warn(
                f"checkpoint {folder / str(number)} cannot be read and is skipped: "
                f"{first_line(error)}",
                stacklevel=2,
            )
    raise UserError(f"no checkpoint in {folder} can be read.")


def chosen(run: Path, steps: Iterable[int], step: int | None) -> Iterable[int]:
    """The step itself if a run has it, UserError if not; all steps for None."""
    if step is None:
        return steps
    if step not in steps:
        known = ", ".join(map(str, sorted(steps)))
        raise UserError(f"{run} has no checkpoint of step {step}; it has {known}.")
    return [step]


@functools.cache
def hush_stragglers() -> None:
    """Hides the messages of abandoned reads and writes.

    If one array cannot be read or written, the others end later, in threads of tensorstore, and
    nothing waits for their errors.
    """
    hook = sys.unraisablehook

    def quiet(unraisable: "sys.UnraisableHookArgs") -> None:
        if not str(unraisable.exc_value).startswith(_STRAGGLERS):
            hook(unraisable)

    sys.unraisablehook = quiet
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    logging.getLogger("asyncio").addFilter(
        lambda record: "async_deserialize" not in record.getMessage()
    )
