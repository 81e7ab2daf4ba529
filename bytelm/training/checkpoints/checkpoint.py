"""Checkpoints of a run, written by Orbax while training goes on.

A checkpoint is complete or absent: Orbax writes it under another name and renames it. Its items are
`params` (evaluation loads only these, on any mesh), `training` (optimiser, RNG, counters), `data`
(the position in the data), `loop` (the state of the training loop), `config`, `provenance` (code,
versions, data fingerprint), and `digests` of all of these, which are checked when they are read.
"""

import contextlib
import functools
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from bytelm.core.errors import UserError, first_line
from bytelm.core.files import plain_path
from bytelm.core.places import is_address
from bytelm.data.carried import carried_tokenizer
from bytelm.training.checkpoints import private_copies
from bytelm.training.checkpoints.digests import DIGESTS, LOOP, Digests, digest_arrays, digest_json
from bytelm.training.checkpoints.exported import ABOUT, SavedModel, load_exported, restore_target
from bytelm.training.checkpoints.reading import (
    CheckpointReader,
    chosen,
    first_readable,
    hush_stragglers,
)
from bytelm.training.checkpoints.scores import FOLDER, mend_scores, rank, score_of
from bytelm.training.checkpoints.scores import ITEM as SCORE
from bytelm.training.checkpoints.staging import (
    staged_for_reading,
    staged_for_run,
    whole_steps,
)
from bytelm.training.distributed import gather_json
from bytelm.training.experiment import ExperimentConfig, as_saved
from bytelm.training.metrics.record import LoopState
from bytelm.training.run_directory import set_aside_as_run, set_unreadable_aside
from bytelm.training.step import TrainState

T = TypeVar("T")
_READING = ocp.CheckpointManagerOptions(
    read_only=True, create=False, save_interval_steps=0, lightweight_initialize=True
)

__all__ = ["Checkpoints", "Restored", "SavedModel", "last_step", "load_model", "save_model"]


@dataclass(frozen=True)
class Restored:
    """A training checkpoint read back."""

    step: int
    state: TrainState
    data: dict[str, Any]
    loop: LoopState
    provenance: dict[str, Any]


class Checkpoints:
    """The checkpoints of the run in `run_dir`, to write and to resume from.

    Args:
        keep: how many of the last ones to keep; the best one is kept too.
        measured_on: identity of the validation; scores with another identity are never the best.
    """

    def __init__(self, run_dir: Path, keep: int, measured_on: str | None = None):
        self.folder = run_dir.absolute() / FOLDER
        self._measured_on = measured_on
        ranked = functools.partial(rank, measured_on=measured_on)
        last = checkpoint_managers.LatestN(keep)
        best = checkpoint_managers.BestN(
            get_metric_fn=ranked, reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([last, best]),
            # Without it Orbax would not write metrics to disk, where a resumed run finds them.
            best_fn=ranked,
            best_mode="min",
            cleanup_tmp_directories=True,
        )
        hush_stragglers()
        self._staged = staged_for_run(self.folder) if is_address(self.folder) else None
        self._is_shared = self._staged is None or self._staged.shared
        self._local = self._staged.local if self._staged else plain_path(self.folder)
        if jax.process_index() == 0 or not self._is_shared:
            mend_scores(self._staged.local if self._staged else self.folder)
        gather_json(None)  # the other processes wait for it
        if self._is_shared:
            self._manager = ocp.CheckpointManager(self._local, options=options)
        else:
            self._manager = private_copies.manager(self._local, options)

    @property
    def last_step(self) -> int | None:
        """Step of the last complete checkpoint, if any."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        data: dict[str, Any],
        config: ExperimentConfig,
        provenance: dict[str, Any],
        loop: dict[str, Any],
        validation_bits: float | None,
    ) -> None:
        """Starts to write a checkpoint; returns when the state may change.

        Raises:
            UserError: if this or the last checkpoint could not be written, such as to a full disk.
        """
        known = validation_bits is not None and math.isfinite(validation_bits)
        metrics = score_of(validation_bits, self._measured_on) if known else None
        items = _items(
            {"training": _without_params(state), "params": state.params},
            {"data": data, "config": as_saved(config), "provenance": provenance, LOOP: loop},
            digest_json(SCORE, metrics) if known else {},
            ocp.args.StandardSave if self._is_shared else ocp.args.PyTreeSave,
        )
        with self._write_errors():
            if self._staged:
                self._staged.wait()
            self._make_folder()
            self._manager.save(step, args=items, metrics=metrics)
            if self._staged:
                self._staged.send(step)

    def wait(self) -> None:
        """Waits until the checkpoint being written is complete."""
        with self._write_errors():
            self._manager.wait_until_finished()
            if self._staged:
                self._staged.wait()

    def restore(
        self,
        abstract_state: TrainState,
        shardings: TrainState,
        *,
        step: int | None = None,
        verify: bool = True,
    ) -> Restored:
        """Reads a checkpoint; damaged ones are skipped with a warning.

        Args:
            shardings: where to place the arrays.
            step: of the checkpoint; None for the last one that can be read.
            verify: whether to compare it with its digests.

        Raises:
            UserError: if none can be read, or it holds only a model (`save_model`).
        """
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract_state,
            shardings,
        )

        def read(reader: CheckpointReader) -> Restored:
            if not (reader.folder / "training").exists():
                raise UserError(
                    f"the checkpoint of step {reader.step} in {self.folder} holds a model without "
                    "a training state; start another run from it with --train.initial "
                    f"{self.folder.parent}."
                )
            reader.config()
            data, provenance = reader.json("data"), reader.json("provenance")
            loop = reader.loop(provenance)
            assert loop is not None, "a checkpoint with a training state has a loop state"
            rest = reader.arrays("training", _without_params(target))
            state = TrainState(params=reader.arrays("params", target.params), **rest)
            return Restored(reader.step, state, data, loop, provenance)

        return self._first_readable(step, read, verify)

    def config(self, step: int | None = None, *, verify: bool = True) -> ExperimentConfig:
        """The config of a checkpoint; by default, of the last one whose config can be read."""
        return self._first_readable(step, CheckpointReader.config, verify)

    def _first_readable(
        self, step: int | None, read: Callable[[CheckpointReader], T], verify: bool
    ) -> T:
        run, staged = self.folder.parent, self._staged
        with self._reading() as manager:
            return first_readable(manager, run, step, read, verify=verify, staged=staged)

    @contextmanager
    def _reading(self) -> Iterator[ocp.CheckpointManager]:
        if self._is_shared:
            yield self._manager
            return
        with _hushed(), ocp.CheckpointManager(self._local, options=_READING) as manager:
            yield manager

    def set_aside_after(self, step: int, *, unreadable: bool) -> Path | None:
        """Moves the checkpoints after `step` away, so that these steps can be saved again.

        They become folders of their own if they are `unreadable`, and otherwise another run, whose
        directory is returned. All processes have to call this.
        """
        later = [s for s in self._manager.all_steps() if s > step]
        aside = None
        if later and jax.process_index() == 0:
            if unreadable:
                set_unreadable_aside(self.folder, later)
            else:
                aside = set_aside_as_run(self.folder, later, step)
        if self._staged:
            self._staged.forget(later)
        gather_json(None)  # the other processes wait for it
        self._manager.reload()
        return aside

    def close(self) -> None:
        """Waits until everything is written."""
        with self._write_errors():
            self._manager.close()
            if self._staged:
                self._staged.wait()
                if jax.process_index() == 0:
                    self._staged.remove_old()
                self._staged.close()

    def _make_folder(self) -> None:
        """Makes the folder again if it was removed since the run started."""
        if not self._local.is_dir():
            warnings.warn(
                f"{self.folder} is gone, with the checkpoints in it; the next one creates it "
                "again.",
                stacklevel=3,
            )
            self._local.mkdir(parents=True, exist_ok=True)
            self._manager.reload()

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except UserError:  # of the copy at an address
            raise
        except Exception as error:  # of the storage layers
            if self._staged:
                self._staged.give_up()
            if _is_missing(error) or not self._local.is_dir():
                raise UserError(
                    f"a checkpoint in {self.folder} was removed while it was written; the run "
                    "stops; continue with --resume from the last one that is there, if any."
                ) from error
            free = shutil.disk_usage(self._local).free / 2**20
            raise UserError(
                f"a checkpoint could not be written to {self._local} ({free:.0f} MiB free): "
                f"{first_line(error)}. The run stops; the checkpoints completed "
                "before are intact. Free some space, then continue with --resume."
            ) from error


def _without_params(state: TrainState) -> dict[str, Any]:
    """The item `training`; parameters are an item of their own."""
    return {name: value for name, value in vars(state).items() if name != "params"}


def _is_missing(error: BaseException) -> bool:
    """Whether a file or folder is missing."""
    tensorstore = ("NOT_FOUND", "No ArrayMetadata")
    return isinstance(error, FileNotFoundError) or str(error).startswith(tensorstore)


def _items(
    arrays: dict[str, Any],
    values: dict[str, Any],
    digests: Digests | None = None,
    save: Callable[[Any], ocp.args.CheckpointArgs] = ocp.args.StandardSave,
) -> ocp.args.Composite:
    """The items of a checkpoint, and the digests of these and of others (`digests`)."""
    digests = dict(digests or {})
    for name, tree in arrays.items():
        digests |= digest_arrays(name, tree)
    for name, value in values.items():
        digests |= digest_json(name, value)
    return ocp.args.Composite(
        **{name: save(tree) for name, tree in arrays.items()},
        **{name: ocp.args.JsonSave(value) for name, value in {**values, DIGESTS: digests}.items()},
    )


def save_model(
    run: Path, config: ExperimentConfig, params: Any, provenance: dict[str, Any]
) -> None:
    """Writes a model as a checkpoint of step 0, which `load_model` reads.

    It has no training state: a run can start from it, but not resume.

    Args:
        run: a run directory without checkpoints.
        params: nested dict of arrays.

    Raises:
        UserError: if it could not be written, such as to a full disk.
    """
    folder = run.absolute() / FOLDER
    try:
        with ocp.CheckpointManager(plain_path(folder)) as manager:
            values = {"config": as_saved(config), "provenance": provenance}
            manager.save(0, args=_items({"params": params}, values))
    except Exception as error:  # of the storage layers
        raise UserError(
            f"the model could not be written to {folder}: {first_line(error)}."
        ) from error


def last_step(run: Path) -> int | None:
    """Step of the last complete checkpoint in a run directory, if any."""
    folder = run.absolute() / FOLDER
    if is_address(folder):
        return max(whole_steps(folder), default=None)
    if not folder.is_dir():
        return None
    return max(ocp.utils.checkpoint_steps(plain_path(folder)), default=None)


@contextmanager
def _hushed() -> Iterator[None]:
    """Within the context, Orbax does not warn that it only reads, as it is told to."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)


def load_model(run: Path, step: int | None = None, *, verify: bool = True) -> SavedModel:
    """Loads a model onto one device, without its training state.

    Args:
        run: a run directory, or a folder that `export` wrote.
        step: of the checkpoint; None for the last one that can be read.
        verify: whether to compare it with its digests; a damaged one is skipped.

    Raises:
        UserError: if `run` holds no checkpoint, none of that step, or none that can be read.
    """
    folder = run.absolute() / FOLDER
    if not folder.is_dir():
        if (run / ABOUT).is_file():
            saved = load_exported(run, verify=verify)
            chosen(run, [saved.step], step)
            return saved
        hint = (
            f"name the run {run.absolute().parents[1]} and the step with --step"
            if run.absolute().parent.name == FOLDER
            else "check the path"
        )
        raise UserError(f"{run} is no run directory: it has no folder {FOLDER}; {hint}.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_hushed())
        staged = stack.enter_context(staged_for_reading(folder)) if is_address(folder) else None
        local = staged.local if staged else plain_path(folder)
        manager = stack.enter_context(ocp.CheckpointManager(local, options=_READING))
        if not manager.all_steps():
            raise UserError(f"{run} has no complete checkpoint yet.")

        def read(reader: CheckpointReader) -> SavedModel:
            config = reader.config()
            provenance = reader.json("provenance")
            graphdef, target = restore_target(config)
            params = reader.arrays("params", target)
            tokenizer = carried_tokenizer(run, config.data)
            loop = reader.loop(provenance)
            return SavedModel(
                config, reader.step, graphdef, params, provenance, loop, tokenizer, run
            )

        return first_readable(manager, run, step, read, verify=verify, staged=staged)
