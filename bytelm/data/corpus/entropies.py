"""Entropies of packed text, computed once and stored, so that training does not compute them.

They are those of training's own rows: an entropy model sees a row and what it has of each document,
as it does when a training step computes them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bytelm.data.corpus.cache import ENTROPIES, PackedCorpus
from bytelm.data.corpus.entries import build_once, open_or_build
from bytelm.data.corpus.packing import Rows
from bytelm.data.corpus.subwords import write_in_order
from bytelm.patching.entropy import STEP

SYMBOLS_AT_ONCE = 2**16
"""About how many symbols an entropy model reads at a time."""


@dataclass(frozen=True)
class EntropyReader:
    """An entropy model.

    Attributes:
        digest: of the model, its parameters, and how it is read.
        read: (ids, document_ids), int32 `[B, T]` each -> the entropies in nats, float32 `[B, T]`,
            multiples of `STEP`.
    """

    digest: str
    read: Callable[[np.ndarray, np.ndarray], np.ndarray]


def with_entropies(
    corpus: PackedCorpus, reader: EntropyReader, length: int, cache_path: Path
) -> PackedCorpus:
    """The corpus with the entropies of its rows of `length` symbols, computed once."""
    directory = cache_path / "entropies" / f"{corpus.fingerprint}-{reader.digest}-{length}"
    rows, size = Rows(corpus, length), max(1, SYMBOLS_AT_ONCE // length)
    first = np.arange(0, len(rows) + size, size)
    places = np.minimum(first * length, corpus.num_symbols)

    def write(index: int, files: dict[str, BinaryIO]) -> None:
        batch = rows.batch(range(index * size, (index + 1) * size))
        nats = reader.read(batch["ids"], batch["document_ids"])
        count = int(places[index + 1] - places[index])
        files[ENTROPIES].write(np.round(nats / STEP).astype("<i2").reshape(-1)[:count].tobytes())

    def compute(partial: Path) -> dict[str, Any]:
        content, action = f"the entropies of {corpus.name}", f"reading {corpus.name} for them"
        write_in_order(partial, (content, action, "batches of rows"), [ENTROPIES], places, write)
        return {"name": corpus.name, "model": reader.digest, "length": length}

    size_bytes = 2 * corpus.num_symbols
    return open_or_build(
        lambda: corpus.with_entropies(directory),
        lambda: build_once(directory, f"the entropies of {corpus.name}", size_bytes, compute),
    )
