"""`bytelm generate`: continuations, as text while it is generated, or as raw bytes."""

import codecs
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from bytelm.api import LoadedModel, load
from bytelm.cli.arguments import parse
from bytelm.cli.options import Bounds, Count, Place
from bytelm.cli.prompt_files import Continuations, PromptFile, write_file
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import number_of, printable, printable_name
from bytelm.data.progress import shown_progress
from bytelm.inference.batching import Prompt
from bytelm.inference.draft_choice import LONGEST_DRAFT, DraftKind
from bytelm.inference.generation import ROWS
from bytelm.training.checkpoints.digests import digest_arrays
from bytelm.training.checkpoints.scores import Step


@dataclass(frozen=True)
class GenerateCommand:
    """Continues prompts with a checkpoint."""

    checkpoint: Place
    """The run directory."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    verify: bool = True
    """Whether to compare the checkpoint with its digests."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue, or inputs of an encoder, all in one batch; - reads bytes from standard
    input."""
    prompts: Place | None = None
    """In place of --prompt: a file with a line of JSON for each of any number of prompts, such as
    {"prompt": "It was"}, each with "id" and "max_bytes" if needed. Rows that end make room."""
    output: Path | None = None
    """With --prompts: the file that gets {"id": ..., "text": ...} for each prompt, in order. The
    command goes on where it was stopped."""
    rows: Count = ROWS
    """With --prompts: texts that are written at a time."""
    max_bytes: Annotated[int, Bounds(0, 2**31 - 1)] = 256
    """Most bytes of a continuation."""
    temperature: float = 1.0
    """Of the sampling; 0 always takes the likeliest byte."""
    top_k: Count | None = None
    """Sample from the k likeliest bytes."""
    top_p: float | None = None
    """Sample from the likeliest bytes that together have this probability."""
    min_p: float | None = None
    """Sample from bytes with at least this fraction of the likeliest one's probability."""
    stop: tuple[str, ...] = ()
    """Texts that end a continuation and are left out of it."""
    seed: Annotated[int, Bounds(0, 2**31 - 1)] = 0
    """Of the sampling."""
    byte_marginal: bool = False
    """For a subword model: sample bytes, summed over tokenisations, so that a prompt may end within
    a token."""
    covers: Count = 32
    """With --byte-marginal: token histories kept at each byte."""
    beams: Count = 1
    """With an encoder: width of a beam search for the likeliest target; 1 for none."""
    draft: DraftKind = "none"
    """What guesses the next bytes, so that several are read at once; the text stays the same: the
    model's draft heads, the model without its backbone (stale), or what followed the same bytes
    before (lookup)."""
    draft_checkpoint: Place | None = None
    """The run directory of a small model that drafts."""
    draft_length: Annotated[int, Bounds(1, LONGEST_DRAFT)] = 8
    """Most bytes drafted at a time; it adapts to what pays."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the weights; bfloat16 is faster."""
    raw: bool = False
    """Write only the continuation's bytes, unchanged, in place of valid UTF-8; for one prompt."""


def generate_command(arguments: Sequence[str]) -> int:
    """Continues prompts with a checkpoint.

    `bytelm generate --checkpoint RUN --prompt TEXT [options]`
    """
    command = parse(GenerateCommand, arguments, "generate")
    if command.raw and len(command.prompt) > 1:
        raise UserError(
            "--raw writes only the bytes of a continuation, and nothing would separate several; "
            "give one --prompt."
        )
    if command.prompts is not None or command.output is not None:
        return _generate_file(command)
    if command.prompt.count("-") > 1:
        raise UserError("standard input can be read once; give one --prompt -.")
    loaded = load(command.checkpoint, command.step, weights=command.weights, verify=command.verify)
    prompts = [
        sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
        for prompt in command.prompt
    ]
    names = ("max_bytes", "temperature", "top_k", "top_p", "min_p", "seed", "beams")
    write_continuations(
        loaded,
        prompts,
        raw=command.raw,
        covers=command.covers if command.byte_marginal else None,
        stop=[os.fsencode(text) for text in command.stop],
        **_drafts(command),
        **{name: getattr(command, name) for name in names},
    )
    return 0


def _drafts(command: GenerateCommand) -> dict[str, Any]:
    """The options of drafting, for `LoadedModel`."""
    small = command.draft_checkpoint
    return {
        "draft": command.draft,
        "draft_length": command.draft_length,
        "draft_model": small and load(small, weights=command.weights, verify=command.verify),
    }


def _generate_file(command: GenerateCommand) -> int:
    """Continues the prompts of a file."""
    if command.prompts is None or command.output is None:
        raise UserError("--prompts and --output belong together; give both, or --prompt alone.")
    if command.prompt != ("",) or command.raw or command.beams != 1:
        raise UserError("--prompts goes with neither --prompt, --raw nor --beams; leave them out.")
    file = PromptFile.checked(command.prompts, command.max_bytes)
    loaded = load(command.checkpoint, command.step, weights=command.weights, verify=command.verify)
    covers = command.covers if command.byte_marginal else None
    stop = [os.fsencode(text) for text in command.stop]
    names = ("temperature", "top_k", "top_p", "min_p", "seed")
    options: dict[str, Any] = {name: getattr(command, name) for name in names}
    options["covers"] = covers
    given = {"rows": command.rows, "stop": stop, **options, **_drafts(command)}

    def as_completed(prompts: Iterable[Prompt]) -> Iterator[tuple[int, bytes]]:
        return loaded.as_completed(prompts, **given)

    loaded.as_completed((), largest=file.largest, **given)  # checks the options and the memory
    job = {"content of --prompts": file.digest, **options}
    job |= {"checkpoint": digest_arrays("params", loaded.params)}
    job |= {"stop": list(command.stop), "max_bytes": command.max_bytes}
    with (
        Continuations(command.output, job) as output,
        shown_progress("continuing", file.count, done=output.written, counts=True) as done,
    ):
        write_file(file, output, as_completed, done)
    print(f"{printable_name(command.output)}: {number_of(file.count, 'continuation')}")
    return 0


def write_continuations(
    model: LoadedModel, prompts: Sequence[bytes], *, raw: bool, beams: int = 1, **options: Any
) -> None:
    """Writes each prompt and its continuation to standard output; with an encoder only the target.

    A single prompt is streamed; several are generated as one batch and then written. The text is
    valid UTF-8: incomplete characters are held back, invalid bytes become U+FFFD, and control
    characters are made visible.

    Args:
        raw: write only the continuation's bytes, unchanged; for one prompt.
        beams, options: of `LoadedModel.generate`.
    """
    shown = [b""] * len(prompts) if model.has_encoder else prompts
    if len(prompts) > 1 or (beams != 1 and not raw):
        texts = model.generate(prompts, beams=beams, **options)
        for prompt, text in zip(shown, texts, strict=True):
            print(f"{printable((prompt + text).decode('utf-8', 'replace'))}\n---")
        return
    # Options are checked here, before anything is shown.
    parts: Iterable[bytes] = (
        model.stream(prompts[0], **options)
        if beams == 1
        else model.generate(prompts, beams=beams, **options)
    )
    if raw:
        for part in parts:
            sys.stdout.buffer.write(part)
            sys.stdout.flush()
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        for part in itertools.chain(shown, parts):
            print(printable(decoder.decode(part)), end="", flush=True)
    finally:  # what is said of an error has a line of its own
        print(printable(decoder.decode(b"", final=True)))
