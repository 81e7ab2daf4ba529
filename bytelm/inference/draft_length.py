"""How many symbols to draft: chosen by measured seconds of rounds and by the drafts accepted.

Each number of drafts is a program to compile, which takes longer than a short text. So one that was
not tried yet has to save more than that, in the rest of the text, or in as many more texts as there
were: then it costs at most as much as it would have saved.
"""

from dataclasses import dataclass, field

import numpy as np

LENGTHS = (0, 1, 2, 4, 8, 16, 32)
"""Drafts of a round; each number that is tried is compiled."""
FIRST = 4
"""What is tried first, after 0."""
HOPE = 2.0
"""How many times as fast drafts are taken to be before any were tried."""
DECAY = 0.8
"""How much older chunks count for each later one of the same length."""
GAIN = 1.05
"""A length that was never tried must promise to be faster by this factor."""
RETRY = 32
"""After so many chunks another length is measured once more: acceptance changes with the text."""


@dataclass
class Measured:
    """What chunks of one draft length took and gave, later ones counting more."""

    seconds: float = 0.0
    rounds: float = 0.0
    accepted: np.ndarray | None = None
    """Float64 `[k + 1]`, how often a row accepted 0, 1, ..., k drafts."""

    def add(self, seconds: float, rounds: int, accepted: np.ndarray) -> None:
        """Counts one more chunk."""
        before = 0.0 if self.accepted is None else self.accepted
        self.seconds = DECAY * self.seconds + seconds
        self.rounds = DECAY * self.rounds + rounds
        self.accepted = DECAY * before + accepted

    @property
    def cost(self) -> float:
        """Seconds of a round."""
        return self.seconds / self.rounds

    @property
    def survival(self) -> np.ndarray:
        """The share of rounds in which at least 0, 1, ..., k drafts were accepted."""
        assert self.accepted is not None
        return np.cumsum(self.accepted[::-1])[::-1] / max(self.accepted.sum(), 1e-9)

    @property
    def symbols(self) -> float:
        """Symbols that a row gets in a round."""
        return float(self.survival.sum())

    @property
    def speed(self) -> float:
        """Symbols of a row in a second."""
        return self.symbols / self.cost


@dataclass
class DraftLength:
    """Chooses the drafts of the next chunk, from 0 to `most`; the choice never changes a text."""

    most: int
    measured: dict[int, Measured] = field(default_factory=dict)
    chunks: int = 0
    spent: float = 0.0
    """Seconds of all chunks but those that compiled."""
    compiling: float = 0.0
    """Seconds of the last chunk that compiled."""
    compiled: set[int] = field(default_factory=set)
    """What has been compiled, even if it was not measured yet."""

    @property
    def lengths(self) -> list[int]:
        """All that may be chosen."""
        return sorted({*(k for k in LENGTHS if k < self.most), self.most})

    def next(self, left: int) -> int:
        """The drafts of the next chunk, when a row gets `left` more symbols at most."""
        known = self.measured
        if 0 not in known:
            return 0
        speeds = {k: known[k].speed if k in known else self._promise(k) for k in self.lengths}
        best = max(known, key=lambda k: speeds[k])
        promising = max(speeds, key=lambda k: speeds[k])
        if len(known) == 1:
            promising = min(FIRST, self.most)
        if promising not in known and speeds[promising] > GAIN * speeds[best]:
            seconds = max(left / speeds[best], self.spent)
            saved = seconds * (1 - speeds[best] / speeds[promising])
            if promising in self.compiled or saved > self.compiling:
                return promising
        others = [k for k in known if k != best]
        if others and self.chunks % RETRY == RETRY - 1:
            return max(others, key=lambda k: speeds[k])
        return best

    def record_compiling(self, length: int, seconds: float) -> None:
        """Counts a chunk that compiled its program."""
        self.compiling = seconds
        self.compiled.add(length)

    def record(self, length: int, seconds: float, rounds: int, accepted: np.ndarray) -> None:
        """Counts a chunk that compiled nothing; arguments as of `decoding.Written`."""
        self.chunks += 1
        self.spent += seconds
        if rounds and accepted.sum():
            self.measured.setdefault(length, Measured()).add(seconds, rounds, accepted)

    def _promise(self, length: int) -> float:
        """The speed of a length that was not tried, from those that were."""
        known = sorted(self.measured)
        if known == [0]:
            return HOPE * self.measured[0].speed
        costs = [self.measured[k].cost for k in known]
        if length < known[1]:
            cost = float(np.interp(length, known, costs))
        else:  # costs jump from 0 to any drafts; until two were tried, more of them cost nothing
            slope = (costs[-1] - costs[1]) / max(known[-1] - known[1], 1)
            cost = costs[-1] + max(slope, 0.0) * (length - known[-1])
        survival = self.measured[known[-1]].survival
        # Each further draft survives as often as the last one that was tried.
        ratio = min(survival[-1] / max(survival[-2], 1e-9), 1.0)
        further = survival[-1] * ratio ** np.arange(1, max(length - known[-1], 0) + 1)
        return float(survival[: length + 1].sum() + further.sum()) / max(cost, 1e-9)
