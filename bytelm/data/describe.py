"""What is in the text: the figures and samples that `bytelm data describe` prints."""

import array
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytelm.data.config import SPLITS, DataConfig
from bytelm.data.sources import Source, open_sources

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
SAMPLE_BYTES = 160


@dataclass
class SplitStatistics:
    """Figures of the documents of one split.

    Attributes:
        lengths: bytes of each document.
        invalid: documents that are not valid UTF-8.
        valid_bytes: bytes of the documents that are.
        characters: characters (code points) of the documents that are.
        samples: the first documents.
    """

    lengths: array.array = field(default_factory=lambda: array.array("q"))
    invalid: int = 0
    valid_bytes: int = 0
    characters: int = 0
    samples: list[bytes] = field(default_factory=list)


def statistics(documents: Iterable[bytes], samples: int) -> SplitStatistics:
    """Reads documents once and counts."""
    found, remaining = SplitStatistics(), iter(documents)
    found.samples = list(itertools.islice(remaining, samples))
    for document in itertools.chain(found.samples, remaining):
        found.lengths.append(len(document))
        try:
            found.characters += len(document.decode())
            found.valid_bytes += len(document)
        except UnicodeDecodeError:
            found.invalid += 1
    return found


def describe(config: DataConfig, samples: int = 3, file: TextIO | None = None) -> None:
    """Prints documents, bytes, bytes per character, lengths and samples of each source.

    Args:
        config: what to describe; nothing is packed.
        samples: how many of the first documents of each split to show the beginning of.
        file: where to print; none = standard output.

    Raises:
        UserError: for a bad source.
    """
    console = Console(file=file, highlight=False)
    for source in open_sources(config):
        _describe_source(source, samples, console)


def _describe_source(source: Source, samples: int, console: Console) -> None:
    table = Table(title=Text(source.name))
    for name in ("split", "documents", "bytes", "bytes per character", "not UTF-8", "bad lines"):
        table.add_column(name, justify="right")
    lengths = Table(title="bytes in a document, by quantile")
    for name in ("split", *(f"{quantile:.0%}" for quantile in QUANTILES)):
        lengths.add_column(name, justify="right")
    shown = []
    for split in SPLITS:
        found = statistics(source.documents(split), samples)
        per_character = found.valid_bytes / found.characters if found.characters else float("nan")
        table.add_row(
            split,
            f"{len(found.lengths):,}",
            f"{sum(found.lengths):,}",
            f"{per_character:.3f}",
            f"{found.invalid:,}",
            f"{source.reader.skipped:,}",
        )
        if found.lengths:
            values = np.quantile(np.frombuffer(found.lengths, np.int64), QUANTILES)
            lengths.add_row(split, *(f"{value:,.0f}" for value in values))
        shown += [(split, document) for document in found.samples]
    console.print(table, lengths, sep="\n")
    for split, document in shown:
        console.print(Text(f"{split}: "), Text(printable(document[:SAMPLE_BYTES])), sep="")


def printable(text: bytes) -> str:
    """Text on one line: control characters, and bytes that are not UTF-8, are written as escapes.

    So a document cannot send commands to the terminal that it is shown on.
    """
    decoded = text.decode(errors="backslashreplace")
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in decoded
    )
