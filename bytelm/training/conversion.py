"""ByT5 and MrT5 from and to folders in Hugging Face's T5 format."""

import json
import pickle
import re
import warnings
from pathlib import Path

from safetensors.numpy import save_file

from bytelm.core.errors import UserError
from bytelm.core.files import new_folder
from bytelm.data.config import DataConfig, SpanCorruption
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.models.t5.weights import config_from_t5, config_to_t5, from_t5, to_t5
from bytelm.training.checkpoints.checkpoint import load_model, save_model
from bytelm.training.checkpoints.tensor_files import Tensors, first_line, read_folder, read_json
from bytelm.training.experiment import ExperimentConfig, to_json
from bytelm.training.run_directory import provenance

_GENERATION = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
_TOKENIZER = {
    "tokenizer_class": "ByT5Tokenizer",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "extra_ids": 125,
}


def from_hf(source: str, run_dir: Path) -> None:
    """Writes a run directory with one checkpoint, at step 0, of a ByT5 or MrT5 in float32.

    Args:
        source: a folder with config.json and model.safetensors or pytorch_model.bin, in one file or
            in shards with an index; or the name of a model on the Hugging Face hub.
        run_dir: a new or empty folder.

    Raises:
        UserError: if the source cannot be read or has another architecture, or `run_dir` has files.
    """
    with new_folder(run_dir) as partial:
        folder = Path(source) if Path(source).is_dir() else _download(source)
        weights = _read_weights(folder)
        model = config_from_t5(read_json(folder / "config.json"), weights)
        params = from_t5(weights, model)
        data = DataConfig(task=SpanCorruption(), sequence_length=1024)
        config = ExperimentConfig(model=model, data=data)
        (partial / "config.json").write_text(to_json(config))
        save_model(partial, config, params, {**provenance(), "converted_from": source})


def to_hf(run: Path, folder: Path, step: int | None = None) -> None:
    """Writes a folder that `transformers` loads, from a checkpoint of a ByT5 or MrT5.

    `transformers` loads an MrT5 as a T5, with a warning, and ignores its gate; the code of MrT5's
    authors computes the whole model.

    Raises:
        UserError: if there is no such checkpoint of this family, or `folder` has files.
    """
    with new_folder(folder) as partial:
        saved = load_model(run, step)
        model = saved.config.model
        if not isinstance(model, ByT5Config):
            raise UserError(
                f"{run} has a model of the family {model.family}; only byt5 and mrt5 have T5's "
                "format."
            )
        # START and the targets of a row. Without a length, `transformers` stops after 19 bytes.
        longest = 1 + saved.config.data.row_length
        files = {
            "config.json": config_to_t5(model),
            "generation_config.json": {**_GENERATION, "max_length": longest},
            "tokenizer_config.json": _TOKENIZER,
        }
        for name, content in files.items():
            (partial / name).write_text(json.dumps(content, indent=2) + "\n")
        weights = to_t5(saved.params, model)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    if isinstance(model, MrT5Config) or model.softmax1:
        warnings.warn(
            f"transformers computes {folder} as a plain T5, without the delete gate and softmax1; "
            "the code of MrT5's authors has both.",
            stacklevel=2,
        )


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
        for weights in ("model*.safetensors*", "pytorch_model*.bin*"):
            folder = Path(snapshot_download(name, allow_patterns=["config.json", weights]))
            if any(folder.glob(weights)):
                break
    except Exception as error:  # of the network
        raise UserError(
            f"there is no folder {name}, and it could not be fetched from the Hugging Face hub: "
            f"{first_line(error)}."
        ) from error
    return folder


def _read_weights(folder: Path) -> Tensors:
    if (found := read_folder(folder)) is None:
        found = read_folder(folder, "pytorch_model.bin", _torch_file)
    if found is None:
        raise UserError(
            f"{folder} has neither model.safetensors nor pytorch_model.bin, nor an index of either."
        )
    return found


def _torch_file(path: Path) -> Tensors:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a PyTorch file, and torch is not installed; run `pip install torch`, or "
            "convert the file to model.safetensors."
        ) from None
    try:
        # weights_only: no code in the file is run.
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}
