"""Kernels of other platforms, on this one."""

from functools import partial

import jax
import pytest


@pytest.fixture
def splash_interpreted(monkeypatch):
    """Splash attention in Pallas's interpreter, which any backend can run."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    interpreted = partial(splash.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash, "make_splash_mha", interpreted)


@pytest.fixture
def cudnn_in_xla(monkeypatch):
    """The computation that cuDNN is asked for, in XLA."""
    plain = jax.nn.dot_product_attention

    def unfused(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return plain(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", unfused)
