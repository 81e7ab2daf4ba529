"""What XLA is told when it compiles for CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Function = Callable[..., Any]

# Loops in whole AVX-512 registers, where XLA would use half of them.
_WIDE_LOOPS = {"xla_cpu_prefer_vector_width": "512"}
_EIGEN = _WIDE_LOOPS | {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Matrix products by Eigen, whose float32 is as fast as YNNPACK's, XLA's choice, or faster."""
_YNNPACK = _WIDE_LOOPS | {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
"""Matrix products, and nothing else, by YNNPACK, which has those of bfloat16 units too."""


def training_options(dtype: jnp.dtype) -> dict[str, str]:
    """For training steps that compute in `dtype`."""
    return _YNNPACK if dtype == jnp.bfloat16 else _EIGEN


def jit_inference(**arguments: Any) -> Callable[[Function], Function]:
    """`jax.jit` with these arguments, for functions of inference, in any dtype."""

    def decorated(function: Function) -> Function:
        @functools.cache
        def compiled() -> Function:
            # Not before the first call: to ask for the backend makes it.
            options = _YNNPACK if jax.default_backend() == "cpu" else None
            return jax.jit(function, compiler_options=options, **arguments)

        @functools.wraps(function)
        def call(*values: Any, **named: Any) -> Any:
            return compiled()(*values, **named)

        return call

    return decorated
