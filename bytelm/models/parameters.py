"""The parameters of a model that is not built: their shapes, roles and number."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from bytelm.models.contract import ModelConfig
from bytelm.nn.roles import SYMBOLS, parameter_roles


@functools.lru_cache(maxsize=8)
def abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The model without its parameters, and their shapes and metadata."""
    return nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))


def roles_of(config: ModelConfig) -> dict[str, Any]:
    """The role of each parameter, as `parameter_roles` gives them."""
    return parameter_roles(abstract_model(config)[1])


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """How many parameters there are, and how many without embeddings and the head."""
    parameters = abstract_model(config)[1]
    sizes = jax.tree.map(lambda x: int(np.prod(x.shape)), nnx.to_pure_dict(parameters))
    found = list(zip(jax.tree.leaves(sizes), jax.tree.leaves(roles_of(config)), strict=True))
    return sum(size for size, _ in found), sum(n for n, role in found if role not in SYMBOLS)
