"""Writes continuations: as text while it is generated, or as raw bytes."""

import codecs
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from bytelm.api import LoadedModel
from bytelm.core.terminal_text import printable


def write_continuations(
    model: LoadedModel, prompts: Sequence[bytes], *, raw: bool, **options: Any
) -> None:
    """Writes each prompt and its continuation to standard output; for an encoder, only the target.

    A single prompt is streamed; several are generated as one batch and then written. The text is
    valid UTF-8: incomplete characters are held back, invalid bytes become U+FFFD, and control
    characters are made visible.

    Args:
        raw: for one prompt: write the bytes of the continuation, unchanged, and nothing else.
        options: passed to `LoadedModel.stream` or `LoadedModel.generate`.
    """
    out = sys.stdout.buffer
    if raw:
        (prompt,) = prompts
        for piece in _pieces(model, prompt, options):
            out.write(piece)
            out.flush()
        return
    shown = [b""] * len(prompts) if model.has_encoder else prompts
    if len(prompts) == 1 and options.get("beams", 1) == 1:
        pieces = _pieces(model, prompts[0], options)  # options are checked before anything is shown
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        print(printable(decoder.decode(shown[0])), end="", flush=True)
        for piece in pieces:
            print(printable(decoder.decode(piece)), end="", flush=True)
        print(printable(decoder.decode(b"", final=True)))
        return
    for prompt, text in zip(shown, model.generate(prompts, **options), strict=True):
        print(f"{printable((prompt + text).decode('utf-8', 'replace'))}\n---")


def _pieces(model: LoadedModel, prompt: bytes, options: dict[str, Any]) -> Iterable[bytes]:
    """The continuation, in parts as they are generated; from a beam search, in one part."""
    if options.get("beams", 1) == 1:
        return model.stream(prompt, **options)
    return model.generate([prompt], **options)
