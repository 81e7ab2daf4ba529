"""Greedy decoding of a converted BLT, against the port in `transformers`.

    python -m benchmarks.blt [--checkpoint FOLDER]

Both continue one text of 512 bytes, in turns; needs the extra `torch`. They do not do the same
work. bytelm keeps the states of all four parts of the model: for each byte the entropy model, the
encoder and the decoder read one position, and the backbone one patch where one ends. `transformers`
reads the whole text again for each byte, in all four parts, since its cache does not work for BLT.
So bytelm is measured reading all again too, in one compiled program for rows of the final length:
the first ratio is that of the programs, the second what the states are worth.

Without a checkpoint, in the format of `transformers`, weights are random, and the threshold is one
that gives patches of about 4.5 bytes.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from safetensors.numpy import save_file

import bytelm
from benchmarks.families import text_batch
from benchmarks.tables import show
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, END, PAD, START
from bytelm.models import Batch
from bytelm.models.blt import BLTConfig
from bytelm.models.entropy_patches import (
    PUBLISHED_END,
    PUBLISHED_FIRST,
    PUBLISHED_START,
    PUBLISHED_SYMBOLS,
    EntropyModelPatches,
)
from bytelm.models.released.blt import BLTFormat
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.entropy import STEP
from bytelm.training.conversion import from_hf
from bytelm.training.timing import in_turns

BYTES_PER_PATCH = 4.5


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    checkpoint: Path | None = None
    """Folder in the format of `transformers`; none = random weights."""
    width: int = 64
    """Local width of the random model; its backbone and k = 2 have twice as many channels."""
    depth: int = 4
    """Blocks of its backbone and of its decoder; entropy model and encoder have two and one."""
    prompt_bytes: int = 512
    """Bytes of the text that is continued."""
    bytes: int = 256
    """Bytes that bytelm makes in a turn when it keeps states; it reads the prompt in that time."""
    again: int = 4
    """Bytes made in a turn by reading all again; each costs the same."""
    rounds: int = 3
    """Turns that each contender takes, after one that is not timed."""


def main(arguments: Arguments) -> None:
    """Measures, and shows a table."""
    ids = text_batch(arguments.prompt_bytes, arguments.prompt_bytes).ids[0]
    prompt = bytes(ids[ids < BYTES].astype(np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.checkpoint or write_random(arguments, ids, Path(folder, "hf"))
        from_hf(str(source), Path(folder, "run"))
        ours = bytelm.load(Path(folder, "run"))
        theirs = hugging_face(source, prompt, arguments.again)
    made = {name: arguments.again for name in ("bytelm, all again", "transformers, all again")}
    made |= {"bytelm, states kept": arguments.bytes}
    runs: dict[str, Callable[[], bytes]] = {
        "bytelm, states kept": lambda: continued(ours, prompt, arguments.bytes),
        "bytelm, all again": recomputed(ours, prompt, arguments.again),
        "transformers, all again": theirs,
    }
    found = {name: run()[: arguments.again] for name, run in runs.items()}
    if len(set(found.values())) > 1:
        raise UserError(f"they do not continue the text with the same bytes: {found}.")
    timings = in_turns(runs, rounds=arguments.rounds, warm_up=1)
    costs = {name: 1e3 * timing.median / made[name] for name, timing in timings.items()}
    rows = [
        (
            name,
            str(made[name]),
            f"{costs[name]:.2f}",
            f"{1e3 * timing.least / made[name]:.2f}",
            f"{costs['transformers, all again'] / costs[name]:,.1f}",
        )
        for name, timing in timings.items()
    ]
    columns = ("", "bytes", "ms/byte, median", "best", "x transformers")
    show(f"Greedy bytes after {len(prompt)}, with their reading, batch 1", columns, rows)


def write_random(arguments: Arguments, ids: np.ndarray, folder: Path) -> Path:
    """A folder with a random model in the format of `transformers`."""
    common = {"head_width": 32, "window": 512, "qk_norm": False}
    entropy_model = TransformerConfig(
        **common,
        width=arguments.width,
        depth=2,
        vocabulary=PUBLISHED_SYMBOLS - 1,
        spare_rows=1,
        end_row=PUBLISHED_SYMBOLS - 1,
        start_row=PUBLISHED_START,
        scaled_head=False,
    )
    config = BLTConfig(
        **common,
        local_width=arguments.width,
        global_width=2 * arguments.width,
        global_depth=arguments.depth,
        decoder_depth=arguments.depth,
        ngram_rows=20_000,
        scaled_init=False,
        published_symbols=True,
        bytes_per_slot=1.0,
        segmenter=EntropyModelPatches(published_symbols=True, model=entropy_model),
    )
    model = config.build(nnx.Rngs(0))
    # END always scores 0, and so is never the best.
    model.head.kernel[...] = model.head.kernel[...].at[:, END].set(0.0)
    entropies = model.segmenter.entropies(ids[None], jnp.ones_like(ids)[None])
    # Between two multiples of it, since `transformers` does not round entropies.
    threshold = (round(float(jnp.quantile(entropies, 1 - 1 / BYTES_PER_PATCH)) / STEP) + 0.5) * STEP
    config = replace(config, segmenter=replace(config.segmenter, threshold=threshold))
    form = BLTFormat()
    folder.mkdir()
    for name, content in form.files(config, 4 * len(ids)).items():
        (folder / name).write_text(json.dumps(content))
    weights = form.write(nnx.to_pure_dict(nnx.state(model)), config)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def continued(model: bytelm.LoadedModel, prompt: bytes, count: int) -> bytes:
    """The next bytes, by cached generation."""
    found = model.generate([prompt], max_bytes=count, temperature=0.0)[0]
    if len(found) < count:
        raise UserError(f"the text ends after {len(found)} bytes; use another checkpoint.")
    return found


def recomputed(model: bytelm.LoadedModel, prompt: bytes, count: int) -> Callable[[], bytes]:
    """The next bytes, by a forward pass over the whole row for each."""
    shape = (1, 1 + len(prompt) + count)

    @jax.jit
    def best(params: Any, ids: jax.Array, position: jax.Array) -> jax.Array:
        batch = Batch(ids, ids, jnp.ones(shape, jnp.int32))
        return nnx.merge(model.graphdef, params)(batch).logits[0, position].argmax()

    def run() -> bytes:
        ids = np.full(shape, PAD, np.int32)
        ids[0, : 1 + len(prompt)] = START, *prompt
        for position in range(len(prompt), len(prompt) + count):
            ids[0, position + 1] = best(model.params, ids, np.int32(position))
        return bytes(ids[0, 1 + len(prompt) :].astype(np.uint8))

    return run


def hugging_face(source: Path, prompt: bytes, count: int) -> Callable[[], bytes]:
    """The next bytes, by `transformers`; symbols that no text has are never the best."""
    import torch
    from transformers import BltForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model = BltForCausalLM.from_pretrained(source, local_files_only=True).eval()
    first = torch.tensor([[PUBLISHED_START, *(byte + PUBLISHED_FIRST for byte in prompt)]])
    others = [symbol for symbol in range(PUBLISHED_FIRST) if symbol != PUBLISHED_END]

    def run() -> bytes:
        ids = first
        with torch.no_grad():
            for _ in range(count):
                logits = model(input_ids=ids, use_cache=False).logits[0, -1]
                logits[others] = -torch.inf
                ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
        return bytes(int(i) - PUBLISHED_FIRST for i in ids[0, first.shape[1] :])

    return run


if __name__ == "__main__":
    main(tyro.cli(Arguments))
