"""The likeliest next byte of a subword model, along the canonical tokens of a text.

Given the canonical tokens before, and the bytes of the current one so far, it is the byte with
which the most probable tokens go on. The token that ends there is left aside, since only a model
that has read it could say what follows: a subword model so is told where canonical tokens end,
which flatters it within words. The exact next byte is that of
`bytelm.inference.marginal.marginal`, which reads many more tokens.
"""

import functools
from typing import NamedTuple

import numpy as np

from bytelm.tokenizers.sorted_tokens import SortedTokens
from bytelm.tokenizers.tokenizer import Tokenizer


class Step(NamedTuple):
    """One byte of a token: the tokens that may still be meant, grouped by that byte.

    Attributes:
        span: the places of those tokens.
        groups: int64 `[k]`, where in the span each group starts.
        right: the group of the token's own byte.
    """

    span: slice
    groups: np.ndarray
    right: int


class NextBytes:
    """Guesses next bytes from logits of tokens.

    Args:
        tokenizer: of the model.

    Attributes:
        tokens: how many ids are tokens; END follows.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._texts = tokenizer.token_bytes
        self._tokens = SortedTokens(tokenizer.token_bytes)
        self.tokens = tokenizer.vocabulary.size
        self._steps = functools.cache(self._steps_of)

    def right(self, logits: np.ndarray, token: int) -> int:
        """How many of the bytes of the token that the text has are the likeliest where they are.

        Args:
            logits: float32 `[outputs]`.
            token: its id.
        """
        count, ordered = 0, logits[self._tokens.ids]
        for depth, (span, groups, right) in enumerate(self._steps(token)):
            inside = ordered[span]
            highest = inside.max()
            mass = np.add.reduceat(np.exp(inside - highest), groups)
            ends = depth == 0 and logits[self.tokens] > highest + np.log(mass.max())
            count += int(mass.argmax() == right and not ends)
        return count

    def _steps_of(self, token: int) -> list[Step]:
        text, steps = self._texts[token], []
        span = self._tokens.everything
        for depth, byte in enumerate(text):
            following = self._tokens.bytes_at(depth, span)
            groups = np.flatnonzero(np.diff(following, prepend=-1))
            steps.append(Step(span, groups, int(np.searchsorted(following[groups], byte))))
            span = self._tokens.starting_with(text[: depth + 1], span)[1]
        return steps
