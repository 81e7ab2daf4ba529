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
RETRY = 16
"""After so many chunks another length is measured once more: acceptance changes with the text."""
TRIAL = 64
"""Rounds, of all rows together, of a chunk that measures a length which may not pay."""


@dataclass
class Measured:
    """What chunks of one draft length took and gave, later ones counting more."""

    seconds: float = 0.0
    rounds: float = 0.0
    accepted: np.ndarray | None = None
    """Float64 `[k + 1]`, how often a row accepted 0, 1, ..., k drafts."""
    slowest: float = 0.0
    """Symbols of the row that got the fewest, of those that wrote in all rounds."""
    average: float = 0.0
    """Symbols of these rows on average."""

    def add(self, chunk: "Chunk") -> None:
        """Counts one more chunk."""
        before = 0.0 if self.accepted is None else self.accepted
        self.seconds = DECAY * self.seconds + chunk.seconds
        self.rounds = DECAY * self.rounds + chunk.rounds
        self.accepted = DECAY * before + chunk.accepted
        if len(chunk.counts):
            self.slowest = DECAY * self.slowest + float(chunk.counts.min())
            self.average = DECAY * self.average + float(chunk.counts.mean())

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
    def lag(self) -> float:
        """How fast the slowest row is next to the average."""
        return self.slowest / self.average if self.average else 1.0


@dataclass(frozen=True)
class Chunk:
    """What is measured of a chunk."""

    seconds: float
    rounds: int
    accepted: np.ndarray
    """Int `[k + 1]`, how often a row accepted 0, 1, ..., k drafts."""
    counts: np.ndarray
    """Int `[rows]`, symbols of each row that wrote in all rounds."""


@dataclass
class DraftLength:
    """Chooses the drafts of the next chunk, from 0 to `most`; the choice never changes a text.

    While other texts wait for a row, the average row counts. Otherwise rows that are done wait for
    the slowest one, which would write fewer symbols a second the more drafts the others accept.
    """

    most: int
    rows: int = 1
    """Texts that are written together."""
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

    def next(self, left: int, *, waiting: bool = True) -> tuple[int, int | None]:
        """The drafts of the next chunk, and the most rounds of it if it is a trial.

        A row gets `left` more symbols at most; `waiting` tells whether other texts wait for rows.
        """
        known = self.measured
        if 0 not in known:
            return 0, None
        speeds = {k: self._speed(k, waiting) for k in self.lengths}
        best = max(known, key=lambda k: speeds[k])
        promising = max(speeds, key=lambda k: speeds[k])
        if len(known) == 1:
            promising = min(FIRST, self.most)
        if promising not in known and speeds[promising] > GAIN * speeds[best]:
            seconds = max(left / speeds[best], self.spent)
            saved = seconds * (1 - speeds[best] / speeds[promising])
            if promising in self.compiled or saved > self.compiling:
                return promising, self._trial
        others = [k for k in known if k != best]
        if others and self.chunks % RETRY == RETRY - 1:
            return max(others, key=lambda k: speeds[k]), self._trial
        return best, None

    def record_compiling(self, length: int, seconds: float) -> None:
        """Counts a chunk that compiled its program."""
        self.compiling = seconds
        self.compiled.add(length)

    def record(self, length: int, chunk: Chunk) -> None:
        """Counts a chunk that compiled nothing."""
        self.chunks += 1
        self.spent += chunk.seconds
        if chunk.rounds and chunk.accepted.sum():
            self.measured.setdefault(length, Measured()).add(chunk)

    @property
    def _trial(self) -> int:
        return -(-TRIAL // self.rows)

    def _speed(self, length: int, waiting: bool) -> float:
        """Symbols a second of the average row, or of the slowest."""
        known = self.measured
        if length in known:
            speed, of_known = known[length].symbols / known[length].cost, length
        else:
            speed, of_known = self._promise(length), max(known)
        return speed if waiting else speed * known[of_known].lag

    def _promise(self, length: int) -> float:
        """The speed of a length that was not tried, from those that were."""
        known = sorted(self.measured)
        if known == [0]:
            return HOPE * self.measured[0].symbols / self.measured[0].cost
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
