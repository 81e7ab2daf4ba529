"""Checkpoints that others have released, from and to their folders of config.json and tensors."""

import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import Any

import jax
from safetensors import SafetensorError

from bytelm.core.errors import UserError, first_line
from bytelm.core.files import new_folder
from bytelm.core.places import is_address_text
from bytelm.data.carried import carry
from bytelm.data.config import DataConfig, NextByte, SpanCorruption
from bytelm.models.released.blt import BLTFormat
from bytelm.models.released.decoder import DecoderFormat
from bytelm.models.released.format import ReleasedFormat, WrittenFormat
from bytelm.models.released.hnet import HNetFormat
from bytelm.models.released.lca import FlatLcaFormat, PooledLcaFormat
from bytelm.models.released.t5 import T5Format
from bytelm.tokenizers.published import token_name, tokenizer_json
from bytelm.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bytelm.training.checkpoints.checkpoint import load_model, save_model
from bytelm.training.checkpoints.scores import FOLDER
from bytelm.training.checkpoints.tensor_files import (
    WEIGHTS,
    Tensors,
    read_folder,
    read_json,
    write_safetensors,
)
from bytelm.training.checkpoints.torch_files import open_torch
from bytelm.training.entropy_models import with_digest
from bytelm.training.experiment import ExperimentConfig, to_json
from bytelm.training.run_directory import COMMIT, provenance

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
FORMATS: tuple[tuple[ReleasedFormat, DataConfig], ...] = (
    (T5Format(), DataConfig(task=SpanCorruption(), sequence_length=1024)),
    (HNetFormat(), DataConfig(sequence_length=8192)),
    (BLTFormat(), DataConfig(sequence_length=8192)),
    (DecoderFormat(), DataConfig(sequence_length=2048)),
    (FlatLcaFormat(), DataConfig(sequence_length=4096)),
    (PooledLcaFormat(), DataConfig(sequence_length=4096)),
)
"""Each format with the task and the rows that its models were trained on, unless config.json says
how long they were."""


def from_hf(source: str, run_dir: Path) -> str:
    """Writes a run directory with one checkpoint, at step 0, of a released model in float32.

    Args:
        source: a folder with config.json and model.safetensors or pytorch_model.bin, in one file or
            in shards with an index, or with one file of PyTorch's, `NAME.pt`, and for a model that
            reads tokens tokenizer.json; or the name of a model on the Hugging Face hub.
        run_dir: a new or empty folder.

    Returns:
        What to know of the converted model, in a sentence; nothing for most.

    Raises:
        UserError: if the source cannot be read or is of no known format, or `run_dir` has files.
    """
    if is_address_text(source):
        raise UserError(f"{source} is an address; copy the released model to this machine first.")
    with new_folder(run_dir, last=f"{FOLDER}/0/{COMMIT}") as partial:
        folder = Path(source) if Path(source).exists() else _download(source)
        weights, file = _open_weights(folder)
        form, data, saved = _recognised(folder, file)
        model = form.read_config(saved, weights)
        if length := form.row_length(saved):
            data = dataclasses.replace(data, sequence_length=length)
        if form.has_tokenizer:
            tokenizer = _tokenizer(folder)
            model = form.with_tokens(model, tokenizer.token_bytes)
            data = dataclasses.replace(data, task=NextByte(tokenizer=tokenizer.path))
            carry(partial, tokenizer, None)
        # Orbax writes JAX's arrays with one copy of them, and NumPy's with nearly two.
        params = jax.device_put(form.read(weights, model))
        config = ExperimentConfig(model=with_digest(model, params), data=data)
        (partial / "config.json").write_text(to_json(config))
        save_model(partial, config, params, {**provenance(), "converted_from": source})
    return form.note(model)


def to_hf(run: Path, folder: Path, step: int | None = None, dtype: str = "float32") -> str:
    """Writes a folder in the format of released models of the family.

    `transformers` loads a ByT5 and a decoder. It loads an MrT5 as a T5, with a warning, and ignores
    its gate; the code of MrT5's authors computes the whole model.

    Args:
        dtype: of the tensors, "float32", "bfloat16" or "float16"; those that the format always has
            in float32 stay so.

    Returns:
        What to know of the files, in a sentence; nothing for most.

    Raises:
        UserError: if there is no such checkpoint, its family has no released format or this model
            has no place in it, or `folder` has files.
    """
    with new_folder(folder, last=CONFIG) as partial:
        saved = load_model(run, step)
        model = saved.config.model
        written = (form for form, _ in FORMATS if isinstance(form, WrittenFormat))
        form = next((form for form in written if isinstance(model, form.model)), None)
        if form is None:
            raise UserError(
                f"{run} has a model of the family {model.family}, which has no released format; "
                f"only models of {_known_formats()} can be converted."
            )
        files = form.files(model, saved.config.data.row_length)
        if form.has_tokenizer:
            start, end = (files[CONFIG][f"{name}_token_id"] for name in ("bos", "eos"))
            found = tokenizer_json(saved.tokenizer, end)
            (partial / TOKENIZER).write_bytes(found)
            names = {"bos_token": token_name(found, start), "eos_token": token_name(found, end)}
            files[f"tokenizer_{CONFIG}"] = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        for name, content in files.items():
            (partial / name).write_text(json.dumps(content, indent=2) + "\n")
        weights = form.write(saved.params, model, dtype)
        try:
            write_safetensors(weights, partial / WEIGHTS, "pt")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder} could not be written: {first_line(error)}.") from error
    if lost := form.lost(model):
        warnings.warn(f"of {folder}: {lost}.", stacklevel=2)
    return form.note(model)


def _download(name: str) -> Path:
    """Downloads a model; returns its folder in the cache of the hub's client."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise UserError(f"there is no folder {name}, and no model on a hub can have this name.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"there is no folder {name}; to fetch it from the Hugging Face hub, install its "
            "client: `pip install 'bytelm[hub]'`."
        ) from None
    folder = Path()
    try:
        for weights in ("model*.safetensors*", "pytorch_model*.bin*", "*.pt"):
            folder = Path(snapshot_download(name, allow_patterns=[CONFIG, TOKENIZER, weights]))
            if any(folder.glob(weights)):
                break
    except Exception as error:  # of the network
        raise UserError(
            f"there is no folder {name}, and it could not be fetched from the Hugging Face hub: "
            f"{first_line(error)}."
        ) from error
    return folder


def _open_weights(folder: Path) -> tuple[Tensors, Path]:
    """The tensors of a folder, and the file that has them or would if they were not in shards."""
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name the folder that holds it and its {CONFIG}.")
    if (found := read_folder(folder)) is not None:
        return found, folder / WEIGHTS
    if (found := read_folder(folder, "pytorch_model.bin", open_torch)) is not None:
        return found, folder / "pytorch_model.bin"
    files = sorted(folder.glob("*.pt"))
    if len(files) == 1:
        return open_torch(files[0]), files[0]
    several = f", and {len(files)} files *.pt" if files else ", nor an index of either, nor a *.pt"
    raise UserError(f"{folder} has neither {WEIGHTS} nor pytorch_model.bin{several}.")


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / TOKENIZER
    if not path.is_file():
        raise UserError(
            f"{folder} has no {TOKENIZER}, which says what the tokens of the model are; put there "
            "the one that it was published with."
        )
    return load_tokenizer(path)


def _recognised(folder: Path, file: Path) -> tuple[ReleasedFormat, DataConfig, dict[str, Any]]:
    """The format of a folder with this file of tensors, its data, and the content of config.json.

    A published model whose files come without a config is known by the name of its file.
    """
    if not (folder / CONFIG).is_file():
        for form, data in FORMATS:
            if (known := form.known_config(file.stem)) is not None:
                return form, data, known
    saved = read_json(folder / CONFIG)
    for form, data in FORMATS:
        if form.recognises(saved):
            return form, data, saved
    said = f", whose model_type is {saved['model_type']!r}," if "model_type" in saved else ""
    raise UserError(
        f"{folder / CONFIG}{said} is of no known format; only those of {_known_formats()} can be "
        "converted."
    )


def _known_formats() -> str:
    return ", ".join(form.name for form, _ in FORMATS)
