"""`bytelm convert`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bytelm.api import load
from bytelm.cli.arguments import parse
from bytelm.cli.options import Place
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import say
from bytelm.training.checkpoints.scores import Step, chosen_step
from bytelm.training.conversion import from_hf, to_hf


@dataclass(frozen=True)
class ConvertCommand:
    """Writes a model as safetensors, or converts one from and to the format of released models."""

    from_hf: str | None = None
    """Folder, or name of a model on the Hugging Face hub, to convert to a run: ByT5 or MrT5 in T5's
    format, H-Net or a byte model of LCA-MBP in that of its authors, or a BLT, Llama, Mistral,
    Qwen 2, Qwen 3 or OLMo 2."""
    output: Place | None = None
    """With --from-hf: the run directory to write."""
    to_hf: Place | None = None
    """Folder to write in the format of the family's released models."""
    checkpoint: Place | None = None
    """With --to-hf and --to-safetensors: the run directory to read."""
    step: Step | None = None
    """With --to-hf and --to-safetensors: which checkpoint: a step, or `best` in validation; none =
    the last."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """With --to-hf: dtype of the tensors; none = float32."""
    to_safetensors: Place | None = None
    """Folder to write a model of any family to, which `bytelm.load` and all commands read."""


def convert_command(arguments: Sequence[str]) -> int:
    """Writes a model as safetensors, or converts one from and to the format of released models.

    `bytelm convert --to-safetensors FOLDER --checkpoint RUN | --from-hf PATH_OR_NAME --output RUN |
    --to-hf FOLDER --checkpoint RUN [--dtype bfloat16]`
    """
    command = parse(ConvertCommand, arguments, "convert")

    given: dict[str, Any] = {
        name: value for name, value in vars(command).items() if value is not None
    }
    step, dtype = given.pop("step", None), given.pop("dtype", None)
    match given:
        case {"from_hf": source, "output": run} if len(given) == 2 and step is dtype is None:
            note = from_hf(source, run)
            say(f"done; checkpoint of step 0 in {run}. {note}".removesuffix(". "))
        case {"to_safetensors": folder, "checkpoint": run} if len(given) == 2 and dtype is None:
            load(run, step).save(folder)
            say(f"done; parameters, config and model card in {folder}")
        case {"to_hf": folder, "checkpoint": run} if len(given) == 2:
            note = to_hf(run, folder, chosen_step(run, step), dtype or "float32")
            say(f"done; config and weights in {folder}. {note}".removesuffix(". "))
        case _:
            raise UserError(
                "say what to convert: `--from-hf PATH_OR_NAME --output RUN`, `--to-hf FOLDER "
                "--checkpoint RUN`, or `--to-safetensors FOLDER --checkpoint RUN`."
            )
    return 0
