"""Marks of a text: hashes of windows that its content chooses.

A window is chosen by a hash of its first bytes, and its mark depends on its own bytes alone. So a
piece of a text has the marks of the whole text that lie in it, wherever it is copied to.
"""

from collections.abc import Iterator, Sequence

import numpy as np

WINDOW = 64
"""Bytes of a window."""
KEY_BYTES = 8
"""A window is chosen by its first bytes."""
CHOSEN_BITS = 8
"""One of 2**8 windows is chosen on average."""
MOST = 2**21
"""Marks of a record, about; of longer texts those are kept that end in more zero bits."""
_KEY_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xD1342543DE82EF95) ** np.arange(1, WINDOW // 8 + 1, dtype=np.uint64)
_TOGETHER = 1 << 16
"""Bytes of a text that are looked at together, which bounds the memory."""


def marks_of(text: bytes) -> np.ndarray:
    """The marks of a text, uint64 `[marks]`, in order; none if it is shorter than a window."""
    return marks_within(text, (0, len(text)))[0]


def marks_within(text: bytes, edges: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The marks of documents that follow one another, without windows that reach into the next.

    Args:
        text: the documents, joined.
        edges: where each begins, and last the length of all.

    Returns:
        the marks, uint64 `[marks]`, in order, and the index of the document of each.
    """
    marks, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    bounds = np.asarray(edges, np.int64)
    for begin, part in _parts(np.frombuffer(text, np.uint8)):
        places = _chosen(part)
        owner = np.searchsorted(bounds, places + begin, side="right") - 1
        is_within = places + begin + WINDOW <= bounds[owner + 1]
        mixed = _mixed(part, places[is_within])
        # Text that repeats itself may have a mark at every byte; one of each is enough.
        first = np.sort(np.unique(mixed, return_index=True)[1])
        marks.append(mixed[first])
        owners.append(owner[is_within][first])
    return np.concatenate(marks), np.concatenate(owners)


def kept(marks: np.ndarray, bits: int) -> np.ndarray:
    """Those of some marks that end in so many zero bits."""
    return marks[marks & np.uint64(2**bits - 1) == 0]


def _parts(symbols: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Parts of a text that begin TOGETHER bytes apart, and where; each window is in one of them."""
    for begin in range(0, len(symbols) - WINDOW + 1, _TOGETHER):
        yield begin, symbols[begin : begin + _TOGETHER + WINDOW - 1]


def numbers_at_all(symbols: np.ndarray, dtype: str = "<u8") -> np.ndarray:
    """The 8 bytes from each place on as a number, `[N - 7]`: a view, of uint8 `[N]`."""
    return np.ndarray((len(symbols) - 7,), dtype, symbols, 0, (1,))


def _chosen(symbols: np.ndarray) -> np.ndarray:
    """Where the chosen windows of uint8 `[N]`, of at least one window, begin."""
    keys = numbers_at_all(symbols)[: len(symbols) - WINDOW + 1]
    return np.flatnonzero(keys * _KEY_FACTOR < np.uint64(2 ** (64 - CHOSEN_BITS)))


def _mixed(symbols: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The mark of the window at each of some places, uint64."""
    numbers, mixed = numbers_at_all(symbols), np.zeros(len(places), np.uint64)
    for begin, factor in zip(range(0, WINDOW, 8), _FACTORS, strict=True):
        mixed += numbers[places + begin] * factor
    mixed ^= mixed >> np.uint64(31)
    mixed *= _KEY_FACTOR
    mixed ^= mixed >> np.uint64(29)
    return mixed
