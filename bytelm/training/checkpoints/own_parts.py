"""Which files of a checkpoint hold the parts of arrays that a process has.

Only of checkpoints that processes without a common disk wrote (`private_copies`): each array is a
folder of Zarr, with a file for each part that is named after its place, such as `2.0`. Others are
written in files that parts of many arrays share.
"""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

_PART = re.compile(r"([^/]+)/(\d+(?:\.\d+)*)")
DESCRIPTION = ".zarray"


def is_part(name: str) -> bool:
    """Whether a file of an item is a part of an array, and not what describes arrays."""
    return _PART.fullmatch(name) is not None


def own_parts(folder: Path, names: Sequence[str], arrays: Any) -> list[str]:
    """Those of an item's parts that this process has; all parts of an array that is not understood.

    Args:
        folder: of the item, where what describes the arrays is.
        names: of files that are parts.
        arrays: the arrays to read, of `jax.ShapeDtypeStruct`s with shardings.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(arrays)
    known = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    places = {name: _places(folder / name, leaf) for name, leaf in known.items()}
    found = []
    for name in names:
        array, place = name.split("/")
        wanted = places.get(array)
        if wanted is None or place in wanted:
            found.append(name)
    return found


def _places(folder: Path, array: jax.ShapeDtypeStruct) -> set[str] | None:
    """Names of the parts of an array that this process has; None if that is not known."""
    try:
        about = json.loads((folder / DESCRIPTION).read_bytes())
    except OSError:
        return None
    if tuple(about["shape"]) != array.shape or about.get("dimension_separator", ".") != ".":
        return None
    found: set[str] = set()
    for index in array.sharding.addressable_devices_indices_map(array.shape).values():
        numbers = [
            range(
                (part.start or 0) // size, -(-(length if part.stop is None else part.stop) // size)
            )
            for part, size, length in zip(index, about["chunks"], array.shape, strict=True)
        ]
        found |= {".".join(map(str, place)) for place in itertools.product(*numbers)}
    return found if array.shape else {"0"}
