"""Folders of tensors: one file, or shards with an index, with Hugging Face's names."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bytelm.core.errors import UserError, first_line

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that stays in its file; `np.asarray` reads it, each time anew."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


Tensors = dict[str, StoredTensor]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError if it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object.")
    return found


def open_safetensors(path: Path) -> Tensors:
    """The tensors of a file, by name; UserError if it cannot be read."""
    try:
        file = safe_open(path, framework="np")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error
    return {
        name: StoredTensor(
            tuple(file.get_slice(name).get_shape()), functools.partial(file.get_tensor, name)
        )
        for name in file.offset_keys()
    }


def write_safetensors(tensors: dict[str, np.ndarray], path: Path, form: str) -> None:
    """Writes a new file of tensors, readable as other new files are; `form` is noted in it."""
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    save_file(tensors, path, metadata={"format": form})
    path.chmod(mode)  # safetensors replaces the file by one that its owner alone may read


def read_folder(
    folder: Path, name: str = WEIGHTS, read: Callable[[Path], Tensors] = open_safetensors
) -> Tensors | None:
    """The tensors of the file `name` in a folder, or of the shards in its index; None without."""
    index = folder / f"{name}.index.json"
    if (folder / name).is_file():
        return read(folder / name)
    if not index.is_file():
        return None
    places = read_json(index).get("weight_map")
    shards = list(places.values()) if isinstance(places, dict) else []
    if not shards or any(not isinstance(n, str) or Path(n).name != n for n in shards):
        raise UserError(f"{index} is not an index of shards.")
    tensors: Tensors = {}
    for shard in sorted(set(shards)):
        tensors |= read(folder / shard)
    return tensors
