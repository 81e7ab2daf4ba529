"""What XLA is told when it compiles for CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Function = Callable[..., Any]

# Loops in whole AVX-512 registers, where XLA would use half of them.
_WIDE_LOOPS = {"xla_cpu_prefer_vector_width": "512"}
_PRODUCTS = "xla_cpu_experimental_ynn_fusion_type"


def training_options(dtype: jnp.dtype) -> dict[str, str]:
    """For training steps that compute in `dtype`."""
    # Matrix products by Eigen, whose float32 is as fast as YNNPACK's, XLA's choice, or faster; but
    # only YNNPACK has those of a processor's bfloat16 units.
    in_bfloat16 = dtype == jnp.bfloat16
    return _WIDE_LOOPS | {
        _PRODUCTS: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT" if in_bfloat16 else "",
    }


def jit_inference(**arguments: Any) -> Callable[[Function], Function]:
    """Makes a function one that is compiled by `jax.jit`, with these arguments, for inference.

    On CPU, YNNPACK makes matrix products alone, of any dtype.
    """

    def decorated(function: Function) -> Function:
        @functools.cache
        def compiled() -> Function:
            options = _WIDE_LOOPS | {_PRODUCTS: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
            on_cpu = jax.default_backend() == "cpu"
            return jax.jit(function, compiler_options=options if on_cpu else None, **arguments)

        @functools.wraps(function)
        def call(*values: Any, **named: Any) -> Any:
            return compiled()(*values, **named)

        return call

    return decorated
