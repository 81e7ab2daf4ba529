"""The prefix that prompts share, so that it is read once."""

import itertools
from collections.abc import Sequence

import numpy as np


def shared_prefix(texts: Sequence[np.ndarray]) -> tuple[int, int]:
    """The prefix whose reading once saves the most.

    Args:
        texts: the symbols of each text, integers; each keeps at least one to be read by itself.

    Returns:
        a text that begins with the prefix, and its length; 0 if nothing is saved.
    """
    keys = [np.asarray(text, ">u4").tobytes() for text in texts]  # sorted as the symbols are
    order = sorted(range(len(texts)), key=keys.__getitem__)
    heights = [_common(texts[a], texts[b]) for a, b in itertools.pairwise(order)]
    # The largest rectangle below these heights: n + 1 neighbours that share h symbols save n x h.
    best, found, open = 0, (0, 0), list[tuple[int, int]]()  # (first neighbour, height)
    for place, height in enumerate([*heights, 0]):
        first = place
        while open and open[-1][1] >= height:
            first, shared = open.pop()
            if (place - first) * shared > best:
                best, found = (place - first) * shared, (order[first], shared)
        open.append((first, height))
    return found


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many first symbols two texts share, leaving at least one of each."""
    size = min(len(a), len(b))
    differing = np.flatnonzero(a[:size] != b[:size])
    return min(int(differing[0]) if differing.size else size, max(size - 1, 0))
