"""The likeliest next byte of a subword model, along the canonical tokens of a text.

Given the canonical tokens before it and the bytes of the current token so far, the prediction is
the byte with the most probability among tokens that continue these bytes. Tokens that end exactly
there are ignored, because what follows them would need another run of the model. So the model
knows where canonical tokens end, which flatters it inside words. The exact next byte is that of
`bytelm.inference.marginal.marginal`, which reads many more tokens.
"""

from typing import NamedTuple

import numpy as np

from bytelm.tokenizers.sorted_tokens import SortedTokens
from bytelm.tokenizers.tokenizer import Tokenizer


class Step(NamedTuple):
    """One byte of a token, and the tokens that are still possible there, grouped by their byte."""

    span: slice
    """Those tokens, in sorted order."""
    groups: np.ndarray
    """int64 `[k]`, the start of each group in the span."""
    right: int
    """The group of the token's own byte."""


class NextBytes:
    """Guesses next bytes from logits of tokens; ids from `tokens` on are no tokens."""

    def __init__(self, tokenizer: Tokenizer):
        self._texts = tokenizer.token_bytes
        self._tokens = SortedTokens(tokenizer.token_bytes)
        self.tokens = tokenizer.vocabulary.size
        self._steps: dict[int, list[Step]] = {}

    def right(self, logits: np.ndarray, token: int) -> int:
        """How many bytes of a token are the likeliest at their places.

        Args:
            logits: float32 `[outputs]`.
            token: its id.
        """
        count, ordered = 0, logits[self._tokens.ids]
        steps = self._steps.get(token) or self._steps.setdefault(token, self._find_steps(token))
        for depth, (span, groups, right) in enumerate(steps):
            inside = ordered[span]  # logits of the tokens that are still possible
            highest = inside.max()
            mass = np.add.reduceat(np.exp(inside - highest), groups)  # [groups]
            ends = depth == 0 and logits[self.tokens] > highest + np.log(mass.max())
            count += int(mass.argmax() == right and not ends)
        return count

    def _find_steps(self, token: int) -> list[Step]:
        text, steps = self._texts[token], []
        span = self._tokens.everything
        for depth, byte in enumerate(text):
            following = self._tokens.bytes_at(depth, span)
            groups = np.flatnonzero(np.diff(following, prepend=-1))
            steps.append(Step(span, groups, int(np.searchsorted(following[groups], byte))))
            span = self._tokens.starting_with(text[: depth + 1], span)[1]
        return steps
