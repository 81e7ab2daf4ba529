"""The role of each parameter, which decides how it is trained and counted.

It is given where the parameter is made: `nnx.Param(value, role="norm")`.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.nn.mesh import path_name

Role = Literal[
    "matrix",
    "convolution",
    "projection",
    "head",
    "head_bias",
    "embedding",
    "ngrams",
    "positions",
    "norm",
    "bias",
    "vector",
    "gate",
    "recurrence",
    "frozen",
]
"""
- matrix: the kernel of a hidden layer inside a stack, which Muon trains
- convolution: the kernel of a convolution of each channel by itself
- projection: the kernel of a layer between stacks, or of a small network next to them
- head, head_bias: the kernel and bias of the layer that gives the logits
- embedding: a table of the vectors of symbols
- ngrams: tables of the vectors of n-grams, of which a batch reads few rows
- positions: a table or biases of positions or distances
- norm: the scale of a normalisation
- bias: a vector that is added
- vector: a learned vector in place of one computed from text, or a query
- gate: weights that decide which states of a row are kept
- recurrence: the decay rates and skips of the heads of a recurrent layer
- frozen: any parameter of a model that another one carries and does not train (`freeze`)
"""
ROLES: tuple[Role, ...] = get_args(Role)
KERNELS: tuple[Role, ...] = ("matrix", "convolution", "projection", "head", "gate")
"""The roles of parameters that multiply states; they are decayed by default."""
SYMBOLS: tuple[Role, ...] = ("embedding", "ngrams", "head", "head_bias")
"""The roles of parameters whose number grows with the vocabulary, or with tables of n-grams."""


def parameter_roles(parameters: nnx.State) -> dict[str, Any]:
    """The role of each parameter, as the nested dict in which training keeps parameters.

    Shapes of the parameters are enough.

    Raises:
        UserError: for a parameter without a role.
    """

    def role(path: tuple[Any, ...], variable: nnx.Variable) -> Role:
        found: Role | None = variable.get_metadata().get("role")
        if found not in ROLES:
            raise UserError(
                f"the parameter {path_name(path)} has the role {found!r}; make it with "
                f"nnx.Param(..., role=...) and one of {', '.join(ROLES)}."
            )
        return found

    roles = jax.tree.map_with_path(
        role, parameters, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return dict(nnx.to_pure_dict(roles))


def freeze(module: nnx.Module) -> None:
    """Makes all parameters of a module frozen.

    They are stored, placed and exported like others. They have no gradient, no place in the
    optimiser, no decay, and do not count among the parameters of the model.
    """
    for _, variable in nnx.iter_graph(module):
        if isinstance(variable, nnx.Param):
            variable.set_metadata(role="frozen")


def trained(tree: Any, roles: Any) -> Any:
    """A tree of the parameters without the frozen ones: None, which JAX takes for no leaf."""
    return jax.tree.map(lambda role, leaf: None if role == "frozen" else leaf, roles, tree)


def with_trained(tree: Any, part: Any) -> Any:
    """The whole tree, with the leaves of a tree of `trained` parameters in place of its own."""
    return jax.tree.map(lambda old, new: old if new is None else new, tree, part)


def map_roles(function: Callable[[str, Role], Any], roles: Any) -> Any:
    """Applies `function` to the path, such as "stack/blocks/mlp/up/kernel", and role of each."""
    return jax.tree.map_with_path(lambda path, role: function(path_name(path), role), roles)
