"""Subword tokenizers, and byte probabilities of the models that read their tokens."""

from typing import Literal

Kind = Literal["bpe", "superbpe", "unigram"]
"""Of the tokenizers that `bytelm.tokenizers.training` makes."""
