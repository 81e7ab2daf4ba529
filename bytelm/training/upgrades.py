"""Upgrades of saved configs and parameters: one from each schema to the next.

The schema of a saved config is a number: how many of the upgrades below its form includes. Configs
from before there were schemas have no number: those of commit 635aa20 and of some later ones, which
already include parts of the first upgrades.

If you change the form of a config, or the path of a parameter, add an upgrade at the end of
`UPGRADES`. It edits the JSON values in place, and ignores missing ones, which loading reports.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from bytelm.core.errors import UserError
from bytelm.core.renamed import OPTIONS

Saved = dict[str, Any]
"""A saved config, or a part of it, as JSON values."""
Moves = tuple[tuple[str, str], ...]
"""Old and new paths of parameters, such as ("predictor", "segmenter"), in order."""


@dataclass(frozen=True)
class Upgrade:
    """From one schema to the next: an edit of the config, and moved parameters.

    Attributes:
        family: of the moved parameters; None for all.
    """

    edit: Callable[[Saved], None]
    parameters: Moves = ()
    family: str | None = None


def upgraded(saved: Any) -> Any:
    """A copy of a saved config in the present schema, without its number.

    Raises:
        UserError: if its schema is newer than this version.
    """
    if not isinstance(saved, dict):
        return saved
    config = copy.deepcopy(saved)
    schema = config.pop("schema", 0)
    if type(schema) is not int or schema < 0:
        raise UserError(f"the saved config has the schema {schema!r}, which is no whole number.")
    if schema > SCHEMA:
        raise UserError(
            f"the saved config has schema {schema}, and this version of bytelm reads schemas up to "
            f"{SCHEMA}; use a newer version."
        )
    for upgrade in UPGRADES[schema:]:
        upgrade.edit(config)
    return config


def moved_parameters(saved: Saved) -> Moves:
    """The parameters that have moved since a checkpoint with this saved config."""
    later, family = UPGRADES[saved.get("schema", 0) :], part(saved, "model").get("family")
    return tuple(
        move for each in later if each.family in (None, family) for move in each.parameters
    )


def move_parameters(tree: Any, moves: Moves) -> Any:
    """Moves parameters in their tree, or in the trees of an optimiser's state."""
    if isinstance(tree, tuple):
        items = [move_parameters(item, moves) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if not isinstance(tree, dict):
        return tree
    flat = flatten_dict(tree, sep="/", keep_empty_nodes=True)
    for old, new in moves:
        flat = {
            new + path[len(old) :] if f"{path}/".startswith(f"{old}/") else path: leaf
            for path, leaf in flat.items()
        }
    return unflatten_dict(
        {path: move_parameters(leaf, moves) for path, leaf in flat.items()}, sep="/"
    )


def restore_parameters(tree: Any, moves: Moves) -> Any:
    """The inverse of `move_parameters`."""
    return move_parameters(tree, tuple((new, old) for old, new in reversed(moves)))


def part(config: Saved, path: str) -> Saved:
    """The object at a path such as "model.boundary", or an empty one."""
    found: Any = config
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def sources(config: Saved) -> Iterator[Saved]:
    """The objects of all sources of a config: the data's own, and its mixture's."""
    data = part(config, "data")
    mixture = data.get("mixture")
    yield from (data, *(mixture if isinstance(mixture, list) else ()))


def move(config: Saved, old: str, new: str) -> None:
    """Moves a value from one path to another, if it exists."""
    *old_parent, old_key = old.split(".")
    *new_parent, new_key = new.split(".")
    parent = part(config, ".".join(old_parent))
    if old_key in parent:
        part(config, ".".join(new_parent))[new_key] = parent.pop(old_key)


def _add_fields_of_before_schemas(config: Saved) -> None:
    """Adds fields that came between commit 635aa20 and the first schema."""
    for source in sources(config):
        source.setdefault("split_above", None)
    if train := part(config, "train"):
        train.setdefault("budget", None)
        train.setdefault("initial_differences", [])


def _rename_fields(config: Saved) -> None:
    """Renames fields."""
    for old, new in OPTIONS.items():
        move(config, old, new)


def _name_roles(config: Saved) -> None:
    """Uses roles of parameters in place of regular expressions of their paths."""
    optimizer = part(config, "optimizer")
    if not optimizer:
        return
    roles = ("matrix", "projection", "head", "gate")
    # A regular expression that equals a role keeps its meaning.
    plain = ("head", "embedding", "positions", "norm", "bias", "vector", *roles)

    def kept(pattern: Any) -> Any:
        return f"(?:{pattern})" if pattern in plain else pattern

    decayed = optimizer.get("decayed", [])
    optimizer["decayed"] = list(roles) if decayed == ["kernel$"] else list(map(kept, decayed))
    pairs = optimizer.get("lr_multipliers", [])
    optimizer["lr_multipliers"] = [[kept(pattern), factor] for pattern, factor in pairs]
    optimizer.setdefault("fan_in_scaling", False)


def _one_segmenter(config: Saved) -> None:
    """Boundary rules and kinds of learned boundaries became `model.segmenter`."""
    model = part(config, "model")
    if "boundary" not in model:
        return
    boundary = model.pop("boundary")
    size = model.pop("stride", None) or model.pop("longest_word", None)
    if boundary == "fixed":
        boundary = {"kind": "fixed", "patch_size": size}
    elif isinstance(boundary, str):
        boundary = {"kind": "rule", "rule": boundary, "longest_patch": size}
    elif isinstance(boundary, dict) and boundary.get("kind") in ("whitespace", "spacelike"):
        rule = boundary.get("characters", "spacelike")
        boundary = {"kind": "rule", "rule": rule, "longest_patch": None}
    elif isinstance(boundary, dict) and boundary.get("kind") == "fixed":
        boundary = {"kind": "fixed", "patch_size": boundary.get("stride")}
    model["segmenter"] = boundary


def _part_optimizers(config: Saved) -> None:
    """Each optimiser has its own fields: the momentum is Muon's."""
    optimizer = part(config, "optimizer")
    if optimizer.get("name") == "adamw":
        optimizer.pop("momentum", None)


_OF_SOURCES = ("script", "held_out", "split_above", "weight")
_OF_FILES = ("files", "validation_files", "test_files", "target_key", "script_key", "skip_bad")
_OF_TFDS = ("dataset", "data_dir", "train_split", "validation_split", "test_split")
_FIELDS = {
    "python_stdlib": _OF_SOURCES,
    "files": (*_OF_FILES, "text_key", *_OF_SOURCES),
    "tfds": (*_OF_TFDS, "text_key", *_OF_SOURCES),
    "next_byte": ("tokenizer", "stochastok", "unigram", "shard_bytes", "read"),
    "span_corruption": ("target_length", "noise_density", "mean_span"),
}
"""The fields of each kind of source and of task; other tasks have a target length."""


def _choose_source_and_task(config: Saved) -> None:
    """Moves the fields of the source and the task from the data into `source` and `task`."""
    data = part(config, "data")
    if not data or "source" in data:
        return
    moved = {"mixture", "task"}.union(*_FIELDS.values())
    old = {name: data.pop(name) for name in moved & data.keys()}
    mixture, task = old.get("mixture"), old.get("task", "next_byte")
    if isinstance(mixture, list) and mixture:
        parts = [_source(each) for each in mixture if isinstance(each, dict)]
        data["source"] = {"kind": "mixture", "sources": parts}
    else:
        data["source"] = _source(old)
    data["task"] = {"kind": task, **_chosen(old, _FIELDS.get(task, ("target_length",)))}


def _source(fields: Saved) -> Saved:
    kind = "python_stdlib"
    if fields.get("files"):
        kind = "files"
    elif fields.get("dataset", kind) != kind:
        kind = "tfds"
    return {"kind": kind, **_chosen(fields, _FIELDS[kind])}


def _chosen(fields: Saved, names: tuple[str, ...]) -> Saved:
    return {name: fields[name] for name in names if name in fields}


def _mix_local_blocks(config: Saved) -> None:
    """SpaceByte's local blocks may be Mamba-2."""
    model = part(config, "model")
    if model.get("family") == "spacebyte":
        added = {"expansion": 2, "state_width": 128, "convolution_width": 4, "chunk": 64}
        for name, value in {"local_layout": None, **added}.items():
            model.setdefault(name, value)


_BYTE_FAMILIES = (
    "transformer",
    "mamba",
    "spacebyte",
    "megabyte",
    "hat",
    "hat2",
    "dynamic_pooling",
    "hnet",
    "aunet",
)


_OF_FLAT = {"scaled_head": True, "end_row": None, "start_row": None, "spare_rows": 0}
_OF_TRANSFORMERS = {"qk_norm_over": "head", "qkv_bias": False, "norm_after": False}


def _add_ngrams_and_published_blocks(config: Saved) -> None:
    """Models of bytes may read n-grams; flat ones may have the blocks of published decoders."""
    model, optimizer = part(config, "model"), part(config, "optimizer")
    family = model.get("family")
    added: Saved = {}
    if family in _BYTE_FAMILIES:
        added |= {"ngrams": [], "ngram_functions": 1, "ngram_rows": 500_002}
    if family in ("transformer", "mamba"):
        added |= {**_OF_FLAT, "norm_epsilon": 1e-6 if family == "transformer" else 1e-5}
    if family == "transformer":
        added |= _OF_TRANSFORMERS
    for name, value in added.items():
        model.setdefault(name, value)
    if optimizer:
        optimizer.setdefault("lazy_tables", True)


def _add_parts_of_released_models(config: Saved) -> None:
    """Options of released models: norms of dynamic pooling, rows of BLT, scaled rotation."""
    model = part(config, "model")
    if model.get("family") == "dynamic_pooling":
        model.setdefault("inner_norms", True)
    if model.get("family") == "blt":
        model.setdefault("published_symbols", False)
    if model.get("family") == "transformer":
        model.setdefault("rope_scaling", [])


def _add_draft_heads(config: Saved) -> None:
    """Models of bytes or tokens may have draft heads."""
    for path in ("model", "model.segmenter.model"):
        model = part(config, path)
        if model.get("family") in (*_BYTE_FAMILIES, "blt"):
            model.setdefault("draft", {"kind": "none"})


def _add_evaluations(config: Saved) -> None:
    """Evaluations may run during training."""
    if train := part(config, "train"):
        train.setdefault("evaluations", [])
        train.setdefault("evaluate_every", 1000)
        train.setdefault("evaluation_bytes", 100_000)


def _keep_repeated_documents(config: Saved) -> None:
    """Sources kept documents that they have twice."""
    source = part(config, "data.source")
    for each in source.get("sources", [source]):
        if isinstance(each, dict) and "kind" in each:
            each.setdefault("deduplicate", False)


def _read_all_shards_together(config: Saved) -> None:
    """Rows of all shards were shuffled together."""
    task = part(config, "data.task")
    if task.get("kind") == "next_byte":
        task.setdefault("shuffled_shards", 8)


def _add_sequence_axis(config: Saved) -> None:
    """A mesh may divide the positions of rows."""
    if mesh := part(config, "mesh"):
        mesh.setdefault("sequence", 1)


UPGRADES = (
    Upgrade(_add_fields_of_before_schemas),
    Upgrade(_rename_fields),
    Upgrade(_name_roles),
    Upgrade(
        _one_segmenter,
        parameters=(("predictor", "segmenter/predictor"), ("boundary_norm", "segmenter/norm")),
        family="dynamic_pooling",
    ),
    Upgrade(_part_optimizers),
    Upgrade(_choose_source_and_task),
    Upgrade(_mix_local_blocks),
    Upgrade(_add_ngrams_and_published_blocks),
    Upgrade(_add_parts_of_released_models),
    Upgrade(_add_draft_heads),
    Upgrade(_add_evaluations),
    Upgrade(_keep_repeated_documents),
    Upgrade(_read_all_shards_together),
    Upgrade(_add_sequence_axis),
)
"""The first one leads to schema 1, and so on."""

SCHEMA = len(UPGRADES)
"""The schema in which this version saves configs."""
