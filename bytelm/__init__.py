"""bytelm: token-free, byte-level language models in JAX.

`bytelm.load("runs/transformer_tiny")` gives a trained model that scores and continues texts.
"""

from bytelm.api import LoadedModel, load

__all__ = ["LoadedModel", "load"]
__version__ = "0.1.0"
