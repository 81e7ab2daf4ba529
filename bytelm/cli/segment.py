"""`bytelm segment`."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bytelm.api import load
from bytelm.cli.arguments import parse
from bytelm.cli.options import Count, Place
from bytelm.core.errors import UserError
from bytelm.core.files import check_new_file, write_whole
from bytelm.core.terminal_text import say
from bytelm.evaluation.segmentation import (
    print_segmentation,
    segmentation_json,
    segmentation_page,
)
from bytelm.training.checkpoints.scores import Step


@dataclass(frozen=True)
class SegmentCommand:
    """Shows a checkpoint's patches of a text, and their bits per byte."""

    checkpoint: Place
    """The run directory."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    text: str | None = None
    """The text; - reads bytes from standard input."""
    file: Place | None = None
    """A file with the text, in place of --text."""
    stride: Count | None = None
    """Symbols that each window scores, with the rest as context; none = half a row."""
    html: Place | None = None
    """Also write a page with a heat map of bits per byte under the patches."""
    json: Place | None = None
    """Also write the patches and their bits as JSON, with those of all levels nested."""
    overwrite: bool = False
    """Let --html and --json replace a file."""


def segment_command(arguments: Sequence[str]) -> int:
    """Shows a checkpoint's patches of a text, and their bits per byte.

    `bytelm segment --checkpoint RUN --text TEXT [options]`
    """
    command = parse(SegmentCommand, arguments, "segment")
    for option, path in (("--html", command.html), ("--json", command.json)):
        if path and path.is_file() and not command.overwrite:
            raise UserError(
                f"{path} exists; add --overwrite to replace it, or choose another {option}."
            )
        if path and not path.is_file():
            check_new_file(path, option)
    text = _text(command)

    loaded = load(command.checkpoint, command.step)
    segmentation = loaded.segment(text, stride=command.stride)
    print_segmentation(segmentation)
    if command.html:
        title = f"Patches of {command.checkpoint} at step {loaded.step}"
        write_whole(command.html, segmentation_page(segmentation, title))
        say(f"page: {command.html}")
    if command.json:
        content = {"step": loaded.step, **segmentation_json(segmentation)}
        write_whole(command.json, json.dumps(content) + "\n")
        say(f"patches: {command.json}")
    return 0


def _text(command: SegmentCommand) -> bytes:
    if command.text is None and command.file is not None:
        return command.file.read_bytes()
    match command.text, command.file:
        case "-", None:
            return sys.stdin.buffer.read()
        case str() as text, None:
            return os.fsencode(text)
    raise UserError("give the text to cut: one of --text TEXT, --text - and --file PATH.")
