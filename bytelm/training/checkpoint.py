"""Checkpoints of a run, written by Orbax while training goes on.

A checkpoint is complete or absent: Orbax writes it beside and renames it. Its items are `params`
(which evaluation loads alone, on any mesh), `training` (optimiser, RNG, counters), `data` (the
position in the data), `config`, and `provenance` (code, versions, data fingerprint, bytes and
FLOPs seen).
"""

import errno
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers

from bytelm.config import ExperimentConfig, from_dict, to_dict
from bytelm.errors import UserError
from bytelm.subword.carried import carried_tokenizer
from bytelm.subword.tokenizer import Tokenizer
from bytelm.training.plain_path import plain_path
from bytelm.training.run_directory import new_run_directory
from bytelm.training.step import State

FOLDER = "checkpoints"
"""Where a run directory keeps its checkpoints."""
METRIC = "validation_bits"
"""The metric, lower is better, by which the best checkpoint is kept."""


@dataclass(frozen=True)
class Restored:
    """A training checkpoint read back."""

    step: int
    state: State
    data: dict[str, Any]
    provenance: dict[str, Any]


class Checkpoints:
    """The checkpoints of the run in `run_dir`, to write and to resume from.

    Args:
        keep: how many of the last ones stay, besides the best.
    """

    def __init__(self, run_dir: Path, keep: int):
        self.folder = run_dir.absolute() / FOLDER
        policies = [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics[METRIC],
                reverse=True,
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            # Only with it does Orbax write metrics to disk, where a resumed run finds them.
            best_fn=lambda metrics: metrics[METRIC],
            best_mode="min",
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(plain_path(self.folder), options=options)

    @property
    def last_step(self) -> int | None:
        """Step of the last complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: State,
        *,
        data: dict[str, Any],
        config: ExperimentConfig,
        provenance: dict[str, Any],
        validation_bits: float | None,
    ) -> None:
        """Starts writing a checkpoint; returns once the state may change.

        Raises:
            UserError: if this or the last checkpoint could not be written (disk full, ...).
        """
        training = {name: value for name, value in state.items() if name != "params"}
        items = ocp.args.Composite(
            training=ocp.args.StandardSave(training),
            data=ocp.args.JsonSave(data),
            **_model_items(config, state["params"], provenance),
        )
        known = validation_bits is not None and math.isfinite(validation_bits)
        metrics = {METRIC: validation_bits} if known else None
        with self._write_errors():
            self._manager.save(step, args=items, metrics=metrics)

    def wait(self) -> None:
        """Waits until the checkpoint being written is complete."""
        with self._write_errors():
            self._manager.wait_until_finished()

    def restore(self, abstract_state: State, shardings: State) -> Restored:
        """The last checkpoint that can be read, laid out as `shardings` say.

        One that cannot be read is passed over with a warning.

        Raises:
            UserError: if none can be read, or the last one holds a model alone (`save_model`).
        """
        if self.last_step is not None and not (self.folder / f"{self.last_step}/training").exists():
            raise UserError(
                f"the checkpoint of step {self.last_step} in {self.folder} holds a model and no "
                "state of training; start another run from it with --train.initial "
                f"{self.folder.parent}."
            )

        def read(step: int) -> Restored:
            target = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=sharding
                ),
                abstract_state,
                shardings,
            )
            params = target.pop("params")
            items = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(params),
                    training=ocp.args.StandardRestore(target),
                    data=ocp.args.JsonRestore(),
                    provenance=ocp.args.JsonRestore(),
                ),
            )
            state = {**items["training"], "params": items["params"]}
            return Restored(step, state, items["data"], items["provenance"])

        return _first_readable(self._manager.all_steps(), read, self.folder)

    def config(self) -> ExperimentConfig:
        """The config of the last checkpoint whose config can be read."""
        return _first_readable(self._manager.all_steps(), self._config, self.folder)

    def _config(self, step: int) -> ExperimentConfig:
        return _read_config(self._manager, step)

    def set_aside_after(self, step: int) -> None:
        """Renames the (unreadable) checkpoints after `step`, so that they can be written anew."""
        for later in [s for s in self._manager.all_steps() if s > step]:
            aside = new_run_directory(self.folder.with_name(f"unreadable_checkpoint_{later}"))
            (self.folder / str(later)).rename(aside)
        self._manager.reload()

    def close(self) -> None:
        """Waits for the writing to end."""
        with self._write_errors():
            self._manager.close()

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _is_write_error(error):
                raise
            free = shutil.disk_usage(self.folder).free / 2**20
            raise UserError(
                f"a checkpoint could not be written to {self.folder} ({free:.0f} MiB free): "
                f"{str(error).splitlines()[0][:200]}. The run stops; the checkpoints completed "
                "before are intact. Make room, then continue with --resume."
            ) from error


def _is_write_error(error: BaseException | None) -> bool:
    """Whether the disk is the cause: tensorstore reports it as text, the system by number."""
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EROFS,
            errno.EACCES,
        ):
            return True
        if any(sign in text for sign in ("No space left", "RESOURCE_EXHAUSTED", "File too large")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_readable(steps: Any, read: Callable[[int], Any], folder: Path) -> Any:
    for step in sorted(steps, reverse=True):
        try:
            return read(step)
        except (UserError, PermissionError, MemoryError):
            raise
        except Exception as error:  # whatever the storage layers raise for damaged files
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            warnings.warn(
                f"checkpoint {folder / str(step)} cannot be read and is passed over: {reason}",
                stacklevel=2,
            )
    raise UserError(f"no checkpoint in {folder} can be read.")


def _model_items(
    config: ExperimentConfig, params: Any, provenance: dict[str, Any]
) -> dict[str, ocp.args.CheckpointArgs]:
    """What of a checkpoint `load_model` reads."""
    return {
        "params": ocp.args.StandardSave(params),
        "config": ocp.args.JsonSave(to_dict(config)),
        "provenance": ocp.args.JsonSave(provenance),
    }


def _read_config(manager: ocp.CheckpointManager, step: int) -> ExperimentConfig:
    items = manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))
    return from_dict(items["config"])


@dataclass(frozen=True)
class SavedModel:
    """A model as a checkpoint holds it: `nnx.merge(graphdef, params)` is the model."""

    config: ExperimentConfig
    step: int
    graphdef: nnx.GraphDef
    params: dict[str, Any]
    provenance: dict[str, Any]
    tokenizer: Tokenizer | None = None


def save_model(
    run: Path, config: ExperimentConfig, params: Any, provenance: dict[str, Any]
) -> None:
    """Writes a model as the checkpoint of step 0, which `load_model` reads.

    It has no state of training: training can start from it, and not resume.

    Args:
        run: a run directory without checkpoints.
        params: nested dict of arrays.

    Raises:
        UserError: if it could not be written (disk full, ...).
    """
    folder = run.absolute() / FOLDER
    try:
        with ocp.CheckpointManager(plain_path(folder)) as manager:
            items = ocp.args.Composite(**_model_items(config, params, provenance))
            manager.save(0, args=items)
    except Exception as error:
        if not _is_write_error(error):
            raise
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"the model could not be written to {folder}: {reason}.") from error


def last_step(run: Path) -> int | None:
    """Step of the last complete checkpoint in a run directory, None if there is none."""
    folder = run.absolute() / FOLDER
    if not folder.is_dir():
        return None
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(plain_path(folder), options=options) as manager:
        return manager.latest_step()


def load_model(run: Path, step: int | None = None) -> SavedModel:
    """Loads config and parameters, and nothing else, onto one device.

    Args:
        run: a run directory.
        step: which checkpoint; None for the last one that can be read.

    Raises:
        UserError: if `run` holds no checkpoint, or none of that step.
    """
    folder = run.absolute() / FOLDER
    if not folder.is_dir():
        hint = (
            f"name the run {run.absolute().parents[1]} and the step with --step"
            if run.absolute().parent.name == FOLDER
            else "check the path"
        )
        raise UserError(f"{run} is no run directory: it has no folder {FOLDER}; {hint}.")
    with ocp.CheckpointManager(
        plain_path(folder), options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        steps = manager.all_steps()
        if not steps:
            raise UserError(f"{run} has no complete checkpoint yet.")
        if step is not None and step not in steps:
            known = ", ".join(map(str, sorted(steps)))
            raise UserError(f"{run} has no checkpoint of step {step}; it has {known}.")

        def read(step: int) -> SavedModel:
            config = _read_config(manager, step)
            graphdef, abstract = nnx.split(nnx.eval_shape(lambda: config.model.build(nnx.Rngs(0))))
            device = SingleDeviceSharding(jax.local_devices()[0])
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
                nnx.to_pure_dict(abstract),
            )
            items = manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(target), provenance=ocp.args.JsonRestore()
                ),
            )
            tokenizer = carried_tokenizer(run, config.data)
            return SavedModel(
                config, step, graphdef, items["params"], items["provenance"], tokenizer
            )

        return _first_readable(steps if step is None else [step], read, folder)
