"""Probabilities of byte strings by enumerating their covers, one model call after another."""

import functools
import math

import numpy as np

from bytelm.core.vocabulary import Vocabulary


class GreedyTokenizer:
    """What `ByteMarginal` needs of a tokenizer: the longest token that fits, of two the first."""

    def __init__(self, token_bytes):
        self.token_bytes = tuple(token_bytes)
        self.vocabulary = Vocabulary(len(self.token_bytes))
        lengths = [len(token) for token in self.token_bytes]
        self.byte_counts = np.array([*lengths, 0, 0, 0], np.int32)

    def encode(self, text):
        ids: list[int] = []
        while text:
            fitting = [i for i, token in enumerate(self.token_bytes) if token]
            fitting = [i for i in fitting if text.startswith(self.token_bytes[i])]
            ids.append(max(fitting, key=lambda i: len(self.token_bytes[i])))
            text = text[len(self.token_bytes[ids[-1]]) :]
        return np.array(ids, np.int32)


class BruteForce:
    """Exact probabilities under a model given as a function of the symbols that it sees.

    Args:
        log_p: float64 log-probabilities after START and token ids, a tuple.
        context, stride: windows as in `bytelm.inference.scoring`.
    """

    def __init__(self, log_p, token_bytes, context=1000, stride=1):
        self.token_bytes = token_bytes
        self.vocabulary = Vocabulary(len(token_bytes))
        self.context, self.stride = context, stride
        self.log_p = functools.cache(log_p)

    def after(self, tokens):
        """Probabilities of what follows a history of tokens."""
        symbols = (self.vocabulary.start, *tokens)
        # The first window that ends with or after the last symbol.
        first = self.stride * max(0, math.ceil((len(symbols) - self.context) / self.stride))
        return np.exp(self.log_p(symbols[first:]))

    def starts(self, text, tokens=()):
        """The probability that a text that goes on from these tokens starts with `text`."""
        if not text:
            return 1.0
        return sum(
            p * (1.0 if token.startswith(text) else self.starts(text[len(token) :], (*tokens, i)))
            for i, (token, p) in enumerate(self._following(tokens))
            if token and (token.startswith(text) or text.startswith(token))
        )

    def ends(self, text, tokens=()):
        """The probability that a text that goes on from these tokens is `text`."""
        if not text:
            return self.after(tokens)[self.vocabulary.end]
        return sum(
            p * self.ends(text[len(token) :], (*tokens, i))
            for i, (token, p) in enumerate(self._following(tokens))
            if token and text.startswith(token)
        )

    def one_way(self, tokens):
        """Nats of a token sequence, and of END after it."""
        nats = sum(-math.log(self.after(tokens[:i])[token]) for i, token in enumerate(tokens))
        return nats, -math.log(self.after(tokens)[self.vocabulary.end])

    def next_bytes(self, prefix):
        """Probabilities of the 256 bytes and END, what ids without bytes take shared out."""
        alphabet = {byte for token in self.token_bytes for byte in token}
        joint = np.zeros(257)
        for byte in alphabet:
            joint[byte] = self.starts(prefix + bytes([byte]))
        joint[256] = self.ends(prefix)
        return joint / joint.sum()

    def _following(self, tokens):
        return zip(self.token_bytes, self.after(tokens)[: self.vocabulary.end], strict=True)
