"""The covers of a growing text: the token sequences that may have written it.

A cover of a text is a token sequence that has the text as a prefix, but not without its last token.
`P(text)` is the sum over covers. The model's distribution depends on the whole token history, so
histories never merge; the dynamic programme runs over bytes, with the set of live histories as its
state. A history that wrote exactly the first m of n bytes represents all covers that continue with
a token longer than the n - m bytes left. With tokens sorted by their bytes these are a slice, whose
probabilities are summed. A history with m = n represents itself.

For each byte, the model reads one token for each new history. Their number grows exponentially with
the text; `limit` keeps the most probable ones.
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
    """A live token history."""

    log_p: float  # log-probability of its tokens, in nats
    covered: int  # number of their bytes
    read: Read  # the model's reading of its tokens, all or all but `unread`
    unread: int | None  # its last token, if the model has yet to read it
    span: slice  # the sorted tokens that may come next; all of them if it covers the whole text
    log_mass: float  # log-probability of its tokens followed by a token of the span, or END


@dataclass(eq=False)
class Covers:
    """The live histories of a text that grows byte by byte from nothing."""

    reader: TokenReader  # its columns are the sorted tokens, then END
    tokens: SortedTokens
    limit: int | None  # histories to keep; None for all
    canonical_ids: Sequence[int]  # a tokenisation of the text, whose history is never dropped
    dropped: int = 0  # histories dropped
    dropped_bits: float = 0.0
    """Sum over bytes of `-log2(1 - s)`, where s is the dropped share of the live histories'
    probability: about how many bits the text would save without a limit. An estimate, not a bound:
    it assumes that dropped histories continue like kept ones."""
    reads: int = 1  # tokens that the model has read

    def __post_init__(self) -> None:
        root = History(0.0, 0, self.reader.start(), None, self.tokens.everything, 0.0)
        # Of the canonical tokens so far; None once the text goes past them.
        self.canonical: History | None = root
        self._to_come = list(reversed(self.canonical_ids))
        self._text = bytearray()
        self._live = [root]

    @property
    def log_mass(self) -> float:
        """Log-probability, in nats, that a text starts with the bytes fed, by the live histories.

        The probability of ids without bytes is lost.
        """
        return _log_sum(np.array([history.log_mass for history in self._live]))

    @property
    def log_end(self) -> float:
        """Log-probability, in nats, of the bytes fed as a whole document, with END."""
        ended = [h.log_p + h.read.next_log_p[-1] for h in self._live if self._complete(h)]
        return _log_sum(np.array(ended))

    def feed(self, byte: int) -> None:
        """Appends one byte to the text."""
        self._text.append(byte)
        canonical_id = self._to_come[-1] if self._to_come else None
        canonical = self.canonical if self._to_come else None
        candidates: list[History] = []
        for history in self._live:
            uncovered = bytes(self._text[history.covered :])
            equal, longer = self.tokens.starting_with(uncovered, history.span)
            for place in range(equal.start, equal.stop):
                child = self._child(history, place)
                candidates.append(child)
                if history is self.canonical and child.unread == canonical_id:
                    canonical = child
                    self._to_come.pop()
            if longer.start < longer.stop:
                history.span = longer
                next_log_p = history.read.next_log_p[longer]
                history.log_mass = history.log_p + _log_sum(next_log_p)
                candidates.append(history)
        self.canonical = canonical
        self._live = self._keep(candidates)
        self._read_new()

    def next_bytes(self) -> np.ndarray:
        """Joint probabilities of the text and each next byte or END, `[257]`, up to a factor.

        All 0 if the bytes fed have probability 0.
        """
        result = np.zeros(OUTPUT_SIZE)
        best = max((history.log_mass for history in self._live), default=-math.inf)
        if best == -math.inf:
            return result
        for history in self._live:
            depth = len(self._text) - history.covered
            next_bytes = self.tokens.bytes_at(depth, history.span)
            weights = np.exp(history.log_p - best + history.read.next_log_p[history.span])
            result[:BYTES] += np.bincount(next_bytes, weights, minlength=BYTES)
            if self._complete(history):
                result[END] += math.exp(history.log_p - best + history.read.next_log_p[-1])
        return result

    def _complete(self, history: History) -> bool:
        return history.covered == len(self._text)

    def _child(self, parent: History, place: int) -> History:
        log_p = parent.log_p + float(parent.read.next_log_p[place])
        token = int(self.tokens.ids[place])
        everything = self.tokens.everything
        return History(log_p, len(self._text), parent.read, token, everything, log_p)

    def _keep(self, candidates: list[History]) -> list[History]:
        """The canonical history and the most probable others, up to the limit."""
        if self.limit is None or len(candidates) <= self.limit:
            return candidates
        ranked = sorted(candidates, key=lambda h: (h is self.canonical, h.log_mass), reverse=True)
        masses = np.array([history.log_mass for history in ranked])
        lost = _log_sum(masses) - _log_sum(masses[: self.limit])
        self.dropped += len(ranked) - self.limit
        self.dropped_bits += lost / math.log(2)
        return ranked[: self.limit]

    def _read_new(self) -> None:
        new = [(h, h.unread) for h in self._live if h.unread is not None]
        if not new:
            return
        used = {history.read.row for history in self._live if history.unread is None}
        parents = [(history.read, token) for history, token in new]
        for (history, _), read in zip(new, self.reader.extend(parents, used), strict=True):
            history.read, history.unread = read, None
        self.reads += len(new)


def _log_sum(values: np.ndarray) -> float:
    """Log of the sum of the exponentials; -inf of none."""
    best = values.max(initial=-math.inf)
    if best == -math.inf:
        return -math.inf
    return float(best + np.log(np.exp(values - best).sum()))
