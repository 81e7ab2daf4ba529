"""bytelm: token-free, byte-level language models in JAX.

    model = bytelm.load("runs/transformer_tiny")
    model.score(["some text"])
"""

from bytelm.api import LoadedModel, load

__all__ = ["LoadedModel", "load"]
__version__ = "0.1.0"
