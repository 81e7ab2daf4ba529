"""Contamination: text of one source that another one holds too, found by windows of bytes.

A byte is shared if it is in a window of `WINDOW` consecutive bytes of its document that stands
somewhere in a document of the other source. Windows are compared by 64-bit hashes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from bytelm.core.console import TerminalConsole
from bytelm.core.terminal_text import number_of, say
from bytelm.data.config import Files, HuggingFace, PythonLibrary, Tfds
from bytelm.data.sources.hugging_face import PREFIX
from bytelm.data.sources.source import SingleSource, Source
from bytelm.data.text_record import SPLITS, Split

TFDS_NAME = re.compile(r"[a-z]\w*(/[\w-]+)?(:\d+\.\d+\.\d+)?")
WINDOW = 60
"""Bytes of a window; shorter documents share nothing."""
POWERS = (4, 8, 16, 32)
"""A window's hash is that of its first 32 bytes, then 16, 8 and 4."""
TOGETHER = 2**20
"""Bytes of documents that are hashed at a time."""
SPARSE = 16
"""Entries of the filter for each window that is looked for."""
SHOWN = 5
"""Documents with the most shared bytes that are shown."""


@dataclass(frozen=True)
class Shared:
    """What documents share with another source.

    Attributes:
        sizes: bytes of each document, int64 `[documents]`.
        shared: those in shared windows, int64 `[documents]`.
        examples: the first shared window of each document, b"" without one.
    """

    sizes: np.ndarray
    shared: np.ndarray
    examples: list[bytes]


def named_source(name: str, text_key: str | None = None) -> SingleSource:
    """The source of a pattern of files, or of a dataset's name."""
    if name.startswith(PREFIX):
        return HuggingFace(dataset=name, text_key=text_key)
    if name == PythonLibrary.kind:
        return PythonLibrary()
    is_dataset = TFDS_NAME.fullmatch(name) and not Path(name).exists()
    if is_dataset:
        return Tfds(dataset=name, text_key=text_key)
    return Files(files=(name,), text_key=text_key)


def texts_of(source: Source, split: Split | None) -> Iterator[bytes]:
    """The texts of a split; None for those of all stored splits."""
    if split is not None:
        yield from (document.text for document in source.documents(split))
        return
    for stored in SPLITS:
        if stored in source.reader.own_splits:
            yield from (document.text for document in source.reader.documents(stored))


def window_hashes(text: np.ndarray) -> np.ndarray:
    """A hash of each window of `WINDOW` bytes, uint64 `[max(N - WINDOW + 1, 0)]`, of uint8 `[N]`.

    The hash of twice as many bytes mixes those of its halves.
    """
    count = len(text) - WINDOW + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    hashes = text.astype(np.uint64)
    of_size = {1: hashes}
    size = 1
    while size < POWERS[-1]:
        hashes = _joined(hashes[:-size], hashes[size:])
        size *= 2
        of_size[size] = hashes
    found, begin = of_size[POWERS[-1]][:count], POWERS[-1]
    for size in reversed(POWERS[:-1]):
        found = _joined(found, of_size[size][begin : begin + count])
        begin += size
    return found


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The hash of two parts from theirs."""
    mixed = (first + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed += second
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


def shared_text(
    documents: Sequence[bytes],
    others: Iterable[bytes],
    done: Callable[[int], None] = lambda size: None,
) -> Shared:
    """How much of each document the other documents hold.

    Memory holds the documents and about 30 times their bytes; the others are read as a stream.
    `done` is told how many bytes of them were read.
    """
    wanted = np.unique(_hashes(documents)[0])
    bits = max((SPARSE * len(wanted)).bit_length(), 1)
    shift = np.uint64(64 - bits)
    is_wanted = np.zeros(2**bits, bool)  # by the first bits of a hash
    is_wanted[wanted >> shift] = True
    is_found = np.zeros(len(wanted), bool)
    for batch in _batches(others):
        hashes, _ = _hashes(batch)
        likely = hashes[is_wanted[hashes >> shift]]
        is_found[_places(wanted, likely)] = True
        done(sum(map(len, batch)))
    found = wanted[is_found]
    shared, examples = [], []
    for document in documents:
        hashes, first = _hashes([document])
        begins = first[np.isin(hashes, found)]
        edges = np.zeros(len(document) + 1, np.int64)
        np.add.at(edges, begins, 1)
        np.add.at(edges, begins + WINDOW, -1)
        shared.append(int((np.cumsum(edges)[:-1] > 0).sum()))
        examples.append(document[begins[0] :][:WINDOW] if len(begins) else b"")
    sizes = np.array([len(document) for document in documents], np.int64)
    return Shared(sizes, np.array(shared, np.int64), examples)


def _hashes(documents: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all windows within documents, and where they begin in the joined bytes."""
    sizes = np.array([len(document) for document in documents], np.int64)
    hashes = window_hashes(np.frombuffer(b"".join(documents), np.uint8))
    begins = np.arange(len(hashes))
    ends = np.repeat(np.cumsum(sizes), sizes)[: len(hashes)]
    is_within = begins + WINDOW <= ends
    return hashes[is_within], begins[is_within]


def _places(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where values stand in an array without repeats; those that it lacks are left out."""
    places = np.searchsorted(ordered, values)
    inside = places < len(ordered)
    places, values = places[inside], values[inside]
    return places[ordered[places] == values]


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Documents in lists of about TOGETHER bytes."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= TOGETHER:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def print_overlap(shared: Shared, name: str, other: str) -> None:
    """Shows how much of a source another one holds, and the documents with the most of it."""
    any_shared = shared.shared > 0
    table = Table("", Column("all", justify="right"), Column(f"also in {other}", justify="right"))
    for what, total, part in (
        ("documents", len(shared.sizes), any_shared.sum()),
        ("bytes", shared.sizes.sum(), shared.shared.sum()),
    ):
        share = f"{part:,} ({part / max(total, 1):.2%})"
        table.add_row(what, f"{total:,}", share)
    table.title = f"{name}: windows of {WINDOW} bytes that {other} holds too"
    lines = [
        f"document {number + 1}: {shared.shared[number]:,} of its "
        f"{number_of(shared.sizes[number], 'byte')}, first {shared.examples[number]!r}"
        for number in np.argsort(-shared.shared, kind="stable")[:SHOWN]
        if shared.shared[number]
    ]
    TerminalConsole().print(table)
    for line in lines:
        say(line)
