"""The covers of a growing text: which token histories may have written it, and how probable.

A cover of a text is a token sequence whose whole has the text as a prefix and whose all-but-last is
a strict prefix of it. `P(text)` is the sum over covers. A model gives every token history a
distribution of its own, so histories never merge: the dynamic programme goes over bytes, and its
state is the set of live histories. One that wrote exactly the first m bytes of n stands for all
covers that go on from there with a token longer than the n - m bytes that are left; with the tokens
sorted by their bytes those are a span, and its probability is a sum over a slice. One of m = n
stands for itself.

Per byte the model reads one token for each history that a token completes. Their number grows
exponentially with the text; `limit` keeps the most probable ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bytelm.core.vocabulary import BYTES, END, OUTPUT_SIZE
from bytelm.inference.marginal.token_reader import Read, TokenReader
from bytelm.tokenizers.sorted_tokens import SortedTokens


@dataclass(eq=False)
class History:
    """A live token history.

    Attributes:
        log_p: log-probability of its tokens, in nats.
        covered: how many bytes they have.
        read: what the model has read of it: all, or all but `unread`.
        unread: its last token, until the model reads that.
        span: places of the tokens that may come next; all of them after its last byte.
        log_mass: log-probability of its tokens and that the next is of the span, or END.
    """

    log_p: float
    covered: int
    read: Read
    unread: int | None
    span: slice
    log_mass: float


class Covers:
    """The live histories of a text that grows byte by byte from nothing.

    Args:
        reader: runs the model; its columns are `columns(tokens, end)`.
        tokens: the vocabulary.
        limit: histories that are kept; None for all.
        canonical: a tokenisation of what will be fed, whose history is never dropped.

    Attributes:
        canonical: the history of the canonical tokens so far; None after the last was left behind.
        dropped: how many histories were dropped.
        dropped_bits: sum over bytes of `-log2(1 - s)`, with s the share of the mass of live
            histories that was dropped there: about how many bits the text would be shorter
            without a limit. An estimate, no bound: it takes what was dropped to have gone on like
            what was kept.
        reads: how many tokens the model has read.
    """

    def __init__(
        self,
        reader: TokenReader,
        tokens: SortedTokens,
        *,
        limit: int | None,
        canonical: Sequence[int],
    ):
        root = History(0.0, 0, reader.start(), None, tokens.everything, 0.0)
        self.canonical: History | None = root
        self.dropped = 0
        self.dropped_bits = 0.0
        self.reads = 1
        self._reader = reader
        self._tokens = tokens
        self._limit = limit
        self._canonical_ids = list(reversed(canonical))
        self._text = bytearray()
        self._live = [root]

    @property
    def log_mass(self) -> float:
        """Log-probability, in nats, that a text starts with the bytes fed, by the live histories.

        Of ids without bytes the probability is lost: they write no text, and nothing makes up for
        them.
        """
        return _log_sum(np.array([history.log_mass for history in self._live]))

    @property
    def log_end(self) -> float:
        """Log-probability, in nats, of the bytes fed as a whole document, END included."""
        ended = [h.log_p + h.read.next_log_p[-1] for h in self._live if self._complete(h)]
        return _log_sum(np.array(ended))

    def feed(self, byte: int) -> None:
        """Appends one byte to the text."""
        self._text.append(byte)
        canonical_id = self._canonical_ids[-1] if self._canonical_ids else None
        canonical = self.canonical if self._canonical_ids else None
        candidates: list[History] = []
        for history in self._live:
            stretch = bytes(self._text[history.covered :])
            equal, longer = self._tokens.starting_with(stretch, history.span)
            for place in range(equal.start, equal.stop):
                child = self._child(history, place)
                candidates.append(child)
                if history is self.canonical and child.unread == canonical_id:
                    canonical = child
                    self._canonical_ids.pop()
            if longer.start < longer.stop:
                history.span = longer
                next_log_p = history.read.next_log_p[longer]
                history.log_mass = history.log_p + _log_sum(next_log_p)
                candidates.append(history)
        self.canonical = canonical
        self._live = self._keep(candidates)
        self._read_new()

    def next_bytes(self) -> np.ndarray:
        """Joint probabilities of the text and what follows it, float64 `[257]`, up to a factor.

        The 256 bytes, then END. Where the bytes fed have probability 0, all are 0.
        """
        result = np.zeros(OUTPUT_SIZE)
        best = max((history.log_mass for history in self._live), default=-math.inf)
        if best == -math.inf:
            return result
        for history in self._live:
            depth = len(self._text) - history.covered
            next_bytes = self._tokens.bytes_at(depth, history.span)
            weights = np.exp(history.log_p - best + history.read.next_log_p[history.span])
            result[:BYTES] += np.bincount(next_bytes, weights, minlength=BYTES)
            if self._complete(history):
                result[END] += math.exp(history.log_p - best + history.read.next_log_p[-1])
        return result

    def _complete(self, history: History) -> bool:
        return history.covered == len(self._text)

    def _child(self, parent: History, place: int) -> History:
        log_p = parent.log_p + float(parent.read.next_log_p[place])
        token = int(self._tokens.ids[place])
        everything = self._tokens.everything
        return History(log_p, len(self._text), parent.read, token, everything, log_p)

    def _keep(self, candidates: list[History]) -> list[History]:
        """The canonical history and the most probable others, up to the limit."""
        if self._limit is None or len(candidates) <= self._limit:
            return candidates
        ranked = sorted(candidates, key=lambda h: (h is self.canonical, h.log_mass), reverse=True)
        masses = np.array([history.log_mass for history in ranked])
        lost = _log_sum(masses) - _log_sum(masses[: self._limit])
        self.dropped += len(ranked) - self._limit
        self.dropped_bits += lost / math.log(2)
        return ranked[: self._limit]

    def _read_new(self) -> None:
        """Has the model read the last token of each new history."""
        new = [(h, h.unread) for h in self._live if h.unread is not None]
        if not new:
            return
        used = {history.read.row for history in self._live if history.unread is None}
        parents = [(history.read, token) for history, token in new]
        for (history, _), read in zip(new, self._reader.extend(parents, used), strict=True):
            history.read, history.unread = read, None
        self.reads += len(new)


def columns(tokens: SortedTokens, end: int) -> np.ndarray:
    """The outputs of a model that covers need, int64: the tokens by their places, then END."""
    return np.append(tokens.ids, end)


def _log_sum(values: np.ndarray) -> float:
    """Log of the sum of the exponentials; -inf of none."""
    best = values.max(initial=-math.inf)
    if best == -math.inf:
        return -math.inf
    return float(best + np.log(np.exp(values - best).sum()))
