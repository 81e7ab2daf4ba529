"""How Orbax writes where processes have no disk in common: each a copy with its parts of arrays.

By default process 0 joins the indexes that all processes have written, for which it has to see
them. Without indexes a part of an array is a file named after its place, and the files of all
processes, put together, are a checkpoint that Orbax reads like any other.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import handlers, type_handlers
from orbax.checkpoint.options import AsyncOptions, MultiprocessingOptions

from bytelm.training.checkpoints.digests import DIGESTS, LOOP
from bytelm.training.checkpoints.staging import ARRAYS

VALUES = ("data", "config", "provenance", LOOP, DIGESTS)
"""Items of JSON values."""
WRITERS = MultiprocessingOptions(primary_host=None)
"""Every process writes folders of its own, and what describes the arrays."""


def manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """A manager that writes into this process's own copy; its arrays are given by `PyTreeSave`."""
    arrays = type_handlers.ArrayHandler(primary_host=None, use_replica_parallel=False)
    of_arrays: dict[str, Any] = {
        name: handlers.PyTreeCheckpointHandler(
            use_ocdbt=False,
            multiprocessing_options=WRITERS,
            type_handler_registry=type_handlers.create_type_handler_registry((jax.Array, arrays)),
        )
        for name in ARRAYS
    }
    of_values = {
        name: handlers.JsonCheckpointHandler(multiprocessing_options=WRITERS) for name in VALUES
    }
    # Processes signal each other that folders exist, which would be those of another disk.
    at_once = AsyncOptions(create_directories_asynchronously=False)
    options = dataclasses.replace(options, multiprocessing_options=WRITERS, async_options=at_once)
    return ocp.CheckpointManager(folder, options=options, item_handlers={**of_arrays, **of_values})
