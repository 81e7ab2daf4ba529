"""`bytelm generate`: its options and what it does."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from bytelm.cli.arguments import parse
from bytelm.cli.option_checks import Bounds, Count
from bytelm.core.errors import UserError
from bytelm.training.checkpoints.chosen_step import Step


@dataclass(frozen=True)
class GenerateCommand:
    """Continues prompts with a checkpoint."""

    checkpoint: Path
    """The run directory."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    verify: bool = True
    """Whether the checkpoint is compared with its digests."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue, or inputs of an encoder, all in one batch; - reads one from standard
    input, as bytes."""
    max_bytes: Annotated[int, Bounds(0, 2**31 - 1)] = 256
    """Longest continuation."""
    temperature: float = 1.0
    """Sharpness of the choice; 0 always takes the likeliest byte."""
    top_k: Count | None = None
    """Choose among the k likeliest bytes."""
    top_p: float | None = None
    """Choose among the likeliest bytes that together have this probability."""
    min_p: float | None = None
    """Choose among bytes with at least this fraction of the likeliest one's probability."""
    stop: tuple[str, ...] = ()
    """Texts that end a continuation; they are not part of it."""
    seed: Annotated[int, Bounds(0, 2**31 - 1)] = 0
    """Seed of the choice."""
    byte_marginal: bool = False
    """Choose byte by byte, by the probabilities of all tokenisations, for a subword model: a prompt
    may end within a token."""
    covers: Count = 32
    """With --byte-marginal: token histories that are kept at each byte."""
    beams: Count = 1
    """Candidates of a beam search for the best target, in a family with an encoder; 1 for none."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which weights are held; bfloat16 is faster."""
    raw: bool = False
    """Write the continuation's bytes as they are and nothing else, in place of valid UTF-8; for one
    prompt."""


def generate_command(arguments: Sequence[str]) -> int:
    """Continues prompts with a checkpoint.

    `bytelm generate --checkpoint RUN --prompt TEXT [options]`
    """
    command = parse(GenerateCommand, arguments, "generate")
    if command.raw and len(command.prompt) > 1:
        raise UserError(
            "--raw writes the bytes of one continuation and nothing else, so that several could "
            "not be told apart; give one --prompt."
        )
    if command.prompt.count("-") > 1:
        raise UserError("standard input can be read once; give one --prompt -.")
    from bytelm.api import load
    from bytelm.cli.terminal import write_continuations

    loaded = load(command.checkpoint, command.step, weights=command.weights, verify=command.verify)
    prompts = [
        sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
        for prompt in command.prompt
    ]
    ways: dict[str, int] = {} if command.beams == 1 else {"beams": command.beams}
    if command.byte_marginal:
        ways["covers"] = command.covers
    write_continuations(
        loaded,
        prompts,
        raw=command.raw,
        **ways,
        max_bytes=command.max_bytes,
        temperature=command.temperature,
        top_k=command.top_k,
        top_p=command.top_p,
        min_p=command.min_p,
        stop=[os.fsencode(text) for text in command.stop],
        seed=command.seed,
    )
    return 0
