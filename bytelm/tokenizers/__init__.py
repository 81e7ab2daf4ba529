"""Subword tokenizers, and byte probabilities of the models that read their tokens."""

from typing import Literal

Kind = Literal["bpe", "superbpe", "unigram"]
"""Kinds of tokenizers that `bytelm.tokenizers.training` makes."""
