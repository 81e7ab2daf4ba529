"""bytelm: token-free, byte-level language models in JAX."""

__version__ = "0.1.0"
