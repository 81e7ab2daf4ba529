"""A stored model of any family, and its folder of safetensors, to keep, publish and load again.

The folder has the parameters in `model.safetensors` (or in shards with an index, with the names of
Hugging Face), `config.json`, `bytelm.json` (step, provenance, state of the training loop, digests),
the tokenizer if there is one, the record of the training text, and a model card, `README.md`.
"""

import json
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import SingleDeviceSharding
from safetensors import SafetensorError

from bytelm.core.config_json import files_needed
from bytelm.core.errors import UserError, first_line
from bytelm.core.files import new_folder
from bytelm.core.places import fetch, is_address, objects
from bytelm.data.carried import carried_tokenizer, carry
from bytelm.data.text_record import FILE as TEXT_RECORD
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.parameters import abstract_model, count_parameters
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.checkpoints.digests import check, digest_arrays, digest_json
from bytelm.training.checkpoints.tensor_files import (
    WEIGHTS,
    read_folder,
    read_json,
    write_safetensors,
)
from bytelm.training.experiment import ExperimentConfig, as_saved, from_saved, to_json
from bytelm.training.metrics.record import LoopState, Record
from bytelm.training.upgrades import move_parameters, moved_parameters

ABOUT = "bytelm.json"
"""The file that makes a folder an exported model."""
INDEX = f"{WEIGHTS}.index.json"
SHARD_BYTES = 5 * 10**9
"""Most bytes of a file of parameters, unless one array alone has more."""

_CARD = """---
library_name: bytelm
tags: [byte-level, {family}]
---

# {name}

A language model of the family `{family}`, {origin} with bytelm. It reads and writes {symbols}.

| | |
|---|---|
{rows}

## Use

```python
import bytelm

model = bytelm.load("{name}")
{use}
```
{imports}
`config.json` has all options of the run. `bytelm.json` has the code, packages and machine of the
training, and digests, which are checked when the model is loaded.
"""

_IMPORTS = """
The model needs code that is not part of bytelm: {files}. Import it in Python before the model is
loaded, and add `--import FILE` to commands.
"""


@dataclass(frozen=True)
class SavedModel:
    """A model from a checkpoint: `nnx.merge(graphdef, params)` is the model."""

    config: ExperimentConfig
    step: int
    graphdef: nnx.GraphDef
    params: dict[str, Any]
    provenance: dict[str, Any]
    loop: LoopState | None = None
    """State of the training loop; None for a model that was not trained by bytelm."""
    tokenizer: Tokenizer | None = None
    run: Path | None = None
    """Its run directory or exported folder."""


def restore_target(config: ExperimentConfig) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model of a config without its parameters, and their shapes and dtypes, on one device."""
    graphdef, abstract = abstract_model(config.model)
    device = SingleDeviceSharding(jax.local_devices()[0])
    return graphdef, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        nnx.to_pure_dict(abstract),
    )


def export(saved: SavedModel, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a model into a folder for `load_exported`, whole or not at all.

    Raises:
        UserError: if the folder holds files, or cannot be written.
    """
    trained = saved.loop
    loop = None if trained is None else replace(trained, record=Record()).saved()
    about = {
        "step": saved.step,
        "provenance": saved.provenance,
        "loop": loop,
        "digests": {
            **digest_arrays("params", saved.params),
            **digest_json("config", as_saved(saved.config)),
            **digest_json("provenance", saved.provenance),
            **digest_json("loop", loop),
        },
    }
    with new_folder(folder, last=ABOUT) as partial:
        try:
            _write_weights(saved.params, partial, shard_bytes)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder} could not be written: {first_line(error)}.") from error
        (partial / "config.json").write_text(to_json(saved.config))
        (partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        (partial / "README.md").write_text(model_card(saved, folder.resolve().name))
        carry(partial, saved.tokenizer, None)
        if saved.run is not None and (saved.run / TEXT_RECORD).is_file():
            (partial / TEXT_RECORD).write_bytes((saved.run / TEXT_RECORD).read_bytes())


def load_exported(folder: Path, *, verify: bool = True) -> SavedModel:
    """Loads what `export` wrote, onto one device.

    Raises:
        UserError: if a file is missing or damaged.
    """
    if is_address(folder):
        with tempfile.TemporaryDirectory(prefix="bytelm-") as temporary:
            fetch(folder, Path(temporary), objects(folder))
            return replace(load_exported(Path(temporary), verify=verify), run=folder)
    about, saved_config = read_json(folder / ABOUT), read_json(folder / "config.json")
    try:
        step, provenance, digests = about["step"], about["provenance"], about["digests"]
        if verify:
            check(digests, digest_json("config", saved_config))
            check(digests, digest_json("provenance", provenance))
            if "loop" in about:
                check(digests, digest_json("loop", about["loop"]))
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder} is damaged: {first_line(error)}.") from error
    config = from_saved(saved_config)
    graphdef, target = restore_target(config)
    found = read_folder(folder)
    if found is None:
        raise UserError(f"{folder} has neither {WEIGHTS} nor {INDEX}.")
    weights = unflatten_dict({name: np.asarray(x) for name, x in found.items()}, sep=".")
    try:
        params = _placed(move_parameters(weights, moved_parameters(saved_config)), target)
        if verify:
            check(digests, digest_arrays("params", weights))
    except ValueError as error:
        raise UserError(f"the parameters in {folder} are damaged: {error}.") from error
    tokenizer = carried_tokenizer(folder, config.data)
    loop = about.get("loop")
    trained = LoopState.from_provenance(provenance) if loop is None else LoopState.restored(loop)
    return SavedModel(config, step, graphdef, params, provenance, trained, tokenizer, folder)


def _write_weights(params: Any, folder: Path, shard_bytes: int) -> None:
    shards: list[dict[str, np.ndarray]] = [{}]
    for name, value in flatten_dict(params, sep=".").items():
        array = np.ascontiguousarray(value)
        if shards[-1] and array.nbytes + sum(x.nbytes for x in shards[-1].values()) > shard_bytes:
            shards.append({})
        shards[-1][name] = array
    if len(shards) == 1:
        write_safetensors(shards[0], folder / WEIGHTS, "bytelm")
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(shard, folder / file, "bytelm")
        places |= dict.fromkeys(shard, file)
    size = sum(array.nbytes for shard in shards for array in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _placed(params: dict[str, Any], target: Any) -> dict[str, Any]:
    """The parameters in the dtypes and on the device of `target`; ValueError for others."""
    weights, leaves = flatten_dict(params, sep="."), flatten_dict(target, sep=".")
    if missing := [name for name in leaves if name not in weights]:
        raise ValueError(f"{missing[0]} is missing")
    for name, array in weights.items():
        if name not in leaves:
            raise ValueError(f"{name} is no parameter of the model")
        if array.shape != leaves[name].shape:
            raise ValueError(
                f"{name} has the shape {list(array.shape)} and not {list(leaves[name].shape)}"
            )
    return unflatten_dict(
        {
            name: jax.device_put(weights[name].astype(leaf.dtype), leaf.sharding)
            for name, leaf in leaves.items()
        },
        sep=".",
    )


def model_card(saved: SavedModel, name: str) -> str:
    """The card in Markdown, of a model that is exported to the folder `name`."""
    config, loop = saved.config, saved.loop
    total, without_tables = count_parameters(config.model)
    has_encoder = isinstance(config.model, EncoderDecoderConfig)
    rows = {"Parameters": f"{total:,}, of which {total - without_tables:,} in embeddings and head"}
    if loop is not None:
        rows["Training data"] = "; ".join(source.label for source in config.data.source_configs)
        rows["Steps"] = f"{saved.step:,}"
        rows["Symbols in a row"] = f"{config.data.sequence_length:,}"
        rows["Bytes seen in training"] = f"{loop.bytes:,.0f}"
        rows["FLOPs of training"] = f"{loop.flops:.3g}"
    if isinstance(source := saved.provenance.get("converted_from"), str):
        rows["Converted from"] = source
    if loop is not None and math.isfinite(bits := loop.last_validation or math.nan):
        what = "Bits per target byte" if has_encoder else "Bits per byte"
        rows[f"{what}, validation in training"] = f"{bits:.4f}, after step {loop.validated_step}"
    files = ", ".join(f"`{Path(file).name}`" for file in files_needed(config))
    return _CARD.format(
        imports=_IMPORTS.format(files=files) if files else "",
        name=name,
        family=config.model.family,
        origin="converted" if loop is None else "trained",
        symbols="bytes" if saved.tokenizer is None else "tokens of the tokenizer in this folder",
        rows="\n".join(f"| {what} | {value} |" for what, value in rows.items()),
        use='print(model.generate(["an input"])[0])'
        if has_encoder
        else 'print(model.bits_per_byte(["A text."]))\nprint(model.generate(["A text"])[0])',
    )
