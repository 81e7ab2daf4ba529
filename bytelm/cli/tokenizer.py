"""`bytelm tokenizer`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bytelm.cli.arguments import parse, preset_argument, work_argument
from bytelm.cli.options import Count, Place
from bytelm.data.config import DataConfig
from bytelm.data.open_data import OpenData
from bytelm.data.write_tokenizer import write_tokenizer
from bytelm.tokenizers import Kind
from bytelm.training.presets import load_preset


@dataclass(frozen=True)
class TokenizerCommand:
    """Trains a subword tokenizer on the train split, for data.tokenizer."""

    data: DataConfig = field(default_factory=DataConfig)
    kind: Kind = "bpe"
    """`bpe`: byte-level, within words; `superbpe`: then across words too; `unigram`:
    SentencePiece's, with byte fallback."""
    size: Count = 8192
    """Number of tokens, including the 256 bytes."""
    max_bytes: Count = 100_000_000
    """Most bytes of text to train on; documents are taken in random order."""
    transition: float = 0.8
    """With superbpe: share of the tokens that are made within words."""
    output: Place | None = None
    """The new file; none = KIND-SIZE.json, or KIND-SIZE.model of SentencePiece."""


def tokenizer_command(arguments: Sequence[str]) -> int:
    """Trains a subword tokenizer on the train split, for data.tokenizer.

    `bytelm tokenizer train [PRESET] [options]`
    """
    work_argument(arguments, tokenizer_command, {"train": TokenizerCommand})
    preset, rest = preset_argument(arguments[1:])
    data = load_preset(preset).data if preset else DataConfig()
    command = parse(TokenizerCommand, rest, "tokenizer train", TokenizerCommand(data))

    suffix = "model" if command.kind == "unigram" else "json"
    output = command.output or Path(f"{command.kind}-{command.size}.{suffix}")
    write_tokenizer(
        OpenData(command.data),
        command.kind,
        command.size,
        command.max_bytes,
        output,
        transition=command.transition,
    )
    return 0
