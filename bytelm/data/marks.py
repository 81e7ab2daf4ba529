"""Marks of a text: hashes of windows that its content chooses.

A window is chosen by a hash of its first bytes, and its mark depends on its own bytes alone. So a
piece of a text has the marks of the whole text that lie in it, wherever it is copied to.
"""

from collections.abc import Iterator

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
    found = [_marks(part) for part in _parts(np.frombuffer(text, np.uint8))]
    return np.concatenate([np.zeros(0, np.uint64), *found])


def kept(marks: np.ndarray, bits: int) -> np.ndarray:
    """Those of some marks that end in so many zero bits."""
    return marks[marks & np.uint64(2**bits - 1) == 0]


def _parts(symbols: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of a text that begin TOGETHER bytes apart; each window is in one of them."""
    for begin in range(0, len(symbols) - WINDOW + 1, _TOGETHER):
        yield symbols[begin : begin + _TOGETHER + WINDOW - 1]


def _marks(symbols: np.ndarray) -> np.ndarray:
    """The marks of uint8 `[N]`, of at least one window, each once."""
    windows = np.lib.stride_tricks.sliding_window_view(symbols, WINDOW)  # [N - WINDOW + 1, WINDOW]
    keys = np.ascontiguousarray(windows[:, :KEY_BYTES]).view("<u8")[:, 0]
    chosen = np.flatnonzero(keys * _KEY_FACTOR >> np.uint64(64 - CHOSEN_BITS) == 0)
    mixed = (windows[chosen].view("<u8") * _FACTORS).sum(axis=1)  # [chosen]
    mixed ^= mixed >> np.uint64(31)
    mixed *= _KEY_FACTOR
    mixed ^= mixed >> np.uint64(29)
    # Text that repeats itself may have a mark at every byte; one of each is enough.
    return mixed[np.sort(np.unique(mixed, return_index=True)[1])]
