"""The parameters of a model that is not built: their shapes, roles and number."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from bytelm.core.xla import backend
from bytelm.models.contract import ModelConfig
from bytelm.nn.roles import SYMBOLS, Role, parameter_roles


def abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The model without its parameters, and their shapes and metadata."""
    return _abstract_model(config, backend())


@functools.lru_cache(maxsize=8)
def _abstract_model(config: ModelConfig, backend: str) -> tuple[nnx.GraphDef, nnx.State]:
    """The model for a backend, on which its dtype depends."""
    return nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))


def roles_of(config: ModelConfig) -> dict[str, Any]:
    """The role of each parameter, as `parameter_roles` gives them."""
    return parameter_roles(abstract_model(config)[1])


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """How many parameters are trained, and how many without embeddings and the head."""
    found = _sizes(config)
    return sum(size for size, _ in found), sum(n for n, role in found if role not in SYMBOLS)


def count_frozen(config: ModelConfig) -> int:
    """How many parameters are carried and not trained, such as those of an entropy model."""
    return sum(size for size, role in _sizes(config, frozen=True))


def _sizes(config: ModelConfig, *, frozen: bool = False) -> list[tuple[int, Role]]:
    """The size and role of each parameter that is trained, or frozen."""
    parameters = nnx.to_pure_dict(abstract_model(config)[1])
    sizes = (int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(parameters))
    found = zip(sizes, jax.tree.leaves(roles_of(config)), strict=True)
    return [(size, role) for size, role in found if (role == "frozen") == frozen]
