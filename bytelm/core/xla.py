"""The backend that is compiled for, and XLA's compiler options for CPU."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

Function = Callable[..., Any]
_target: Any = jax.make_user_context("")

# XLA would use half of each AVX-512 register.
_WIDE_LOOPS = {"xla_cpu_prefer_vector_width": "512"}
_EIGEN = _WIDE_LOOPS | {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Matrix products by Eigen: in float32 at least as fast as YNNPACK, XLA's default."""
_YNNPACK = _WIDE_LOOPS | {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
"""Matrix products, and nothing else, by YNNPACK, which also uses bfloat16 units."""
_REPEATABLE = {"xla_gpu_deterministic_ops": True}
"""On a GPU: no atomic sums, and no choice of kernels by their measured time."""


def backend() -> str:
    """The backend that is traced for: that of `compiling_for`, or else JAX's default."""
    return _target.value or jax.default_backend()


def compiling_for(backend: str) -> AbstractContextManager[Any]:
    """What is traced inside is for a backend that this machine may lack: "cpu", "gpu" or "tpu"."""
    found: AbstractContextManager[Any] = _target(backend)  # JAX's caches of traces know it
    return found


def training_options(dtype: jnp.dtype) -> dict[str, str]:
    """Options for training steps that compute in `dtype`."""
    return _YNNPACK if dtype == jnp.bfloat16 else _EIGEN


def jit_inference(*, repeatable: bool = False, **arguments: Any) -> Callable[[Function], Function]:
    """`jax.jit` with these arguments and the options that suit inference, in any dtype.

    Args:
        repeatable: whether other processes on such a machine must compute the same bits.
    """

    def decorated(function: Function) -> Function:
        @functools.cache
        def compiled() -> Function:
            # Deferred to the first call, because `default_backend` initialises the backend.
            options: dict[str, Any] | None = None
            if jax.default_backend() == "cpu":
                options = _YNNPACK
            elif repeatable and jax.default_backend() == "gpu":
                options = _REPEATABLE
            return jax.jit(function, compiler_options=options, **arguments)

        @functools.wraps(function)
        def call(*values: Any, **named: Any) -> Any:
            return compiled()(*values, **named)

        return call

    return decorated


def programs(function: Any) -> int:
    """How many programs of a jitted function are compiled."""
    return function._cache_size()
