"""bytelm: token-free, byte-level language models in JAX.

`bytelm.load("runs/transformer_tiny")` gives a trained model that scores and continues texts.
"""

import importlib.util
from typing import TYPE_CHECKING

__all__ = ["LoadedModel", "load"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from bytelm.api import LoadedModel, load
else:
    # Names are imported when they are first used: JAX and Flax take a second.
    def __getattr__(name):
        if name in __all__:
            return getattr(importlib.import_module("bytelm.api"), name)
        if not name.startswith("_") and importlib.util.find_spec(f"bytelm.{name}"):
            return importlib.import_module(f"bytelm.{name}")
        raise AttributeError(f"module 'bytelm' has no attribute {name!r}")

    def __dir__():
        return [*globals(), *__all__]
