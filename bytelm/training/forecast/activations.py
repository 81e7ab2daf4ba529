"""What a forward pass keeps for the backward pass, counted without a compiler.

The derivative of the loss, as JAX traces it, names all that the backward pass reads. Compilers keep
values that are equal once, copies of parameters where the parameters lie, and on TPUs arrays whose
last axis is filled up to the 128 lanes of a register: heads of 64 channels take twice their size.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from bytelm.core.xla import backend
from bytelm.models.parameters import abstract_model, roles_of
from bytelm.nn.roles import trained, with_trained
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.forecast.compiled import abstract_batch, share_of
from bytelm.training.step import StepSetup, controllers_of, score

LANES = 128
"""Of a register of a TPU."""


@dataclass(frozen=True)
class Kept:
    """Bytes that the forward pass keeps for the backward pass.

    Attributes:
        activations: of what depends on the batch.
        weights: of copies of parameters, such as in bfloat16.
        largest: of the largest array of one layer.
    """

    activations: float
    weights: float
    largest: float


def kept_bytes(config: ExperimentConfig, rows: int) -> Kept:
    """What the forward pass of so many rows keeps, of whole rows on one device."""
    graphdef, state = abstract_model(config.model)
    params, roles = nnx.to_pure_dict(state), roles_of(config.model)
    setup = StepSetup(graphdef, optax.identity(), config.model.symbols, {})
    weights = {name: jnp.float32(1.0) for name in controllers_of(config.model)}
    batch = dataclasses.replace(
        abstract_batch(share_of(config, rows), None),
        keys=jax.ShapeDtypeStruct((rows, 2), jnp.uint32),
    )

    def kept(params: Any, batch: Any) -> list[Any]:
        def loss(part: Any) -> jax.Array:
            return score(with_trained(params, part), batch, setup, weights)[0]

        return jax.tree.leaves(jax.vjp(loss, trained(params, roles))[1])

    closed = jax.make_jaxpr(kept)(params, batch)
    parameters = len(jax.tree.leaves(params))
    return _kept(closed, [index >= parameters for index in range(len(closed.jaxpr.invars))])


def _kept(closed: ClosedJaxpr, varies: Sequence[bool]) -> Kept:
    """Of the results of a program that are none of its inputs, each value once."""
    values = _Values()
    inputs = [values.new(varies=each) for each in varies]
    outputs = zip(values.of_program(closed, inputs), closed.jaxpr.outvars, strict=True)
    sizes = {value: _bytes(var.aval) for value, var in outputs if value not in inputs}
    own = {value: size for value, size in sizes.items() if values.varies[value]}
    return Kept(
        activations=sum(own.values()),
        weights=sum(size for value, size in sizes.items() if value not in own),
        largest=max((size / values.turns.get(value, 1) for value, size in own.items()), default=0),
    )


def _bytes(aval: Any) -> float:
    """Of an array in memory; an axis of 1 at its end is none."""
    last = aval.shape[-1] if aval.shape else 1
    filled = LANES if backend() == "tpu" and 1 < last < LANES else last
    return float(math.prod(aval.shape[:-1]) * filled * aval.dtype.itemsize)


class _Values:
    """Numbers for the values that a program computes: equal ones have the same.

    Attributes:
        varies: whether each depends on more than parameters and constants.
        turns: of a loop, for the values that have an entry of each turn.
    """

    def __init__(self) -> None:
        self.varies: list[bool] = []
        self.turns: dict[int, int] = {}
        self._known: dict[Any, int] = {}

    def new(self, *, varies: bool) -> int:
        """The number of a value that is like no other."""
        self.varies.append(varies)
        return len(self.varies) - 1

    def _number(self, key: Any, inputs: Sequence[int]) -> int:
        """The number of what `key` makes of inputs."""
        whole = key, tuple(inputs)
        if whole not in self._known:
            self._known[whole] = self.new(varies=any(self.varies[each] for each in inputs))
        return self._known[whole]

    def of_program(self, closed: ClosedJaxpr, inputs: Sequence[int]) -> list[int]:
        """The numbers of a program's results."""
        jaxpr: Jaxpr = closed.jaxpr
        found = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
            found[var] = self._number(("constant", id(value)), ())

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self._number(("literal", str(atom.val), str(atom.aval)), ())
            return found[atom]

        for eqn in jaxpr.eqns:
            results = self._results(eqn, [read(atom) for atom in eqn.invars])
            found.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, eqn: Any, inputs: list[int]) -> list[int]:
        name, params = eqn.primitive.name, eqn.params
        if name == "jit":
            return self.of_program(params["jaxpr"], inputs)
        if name == "scan":
            return self._of_scan(params, inputs)
        key = (name, *((option, _hashable(value)) for option, value in params.items()))
        return [self._number((*key, index), inputs) for index in range(len(eqn.outvars))]

    def _of_scan(self, params: Any, inputs: list[int]) -> list[int]:
        """Each turn reads constants, what the one before it passed on, and slices."""
        if "ft_in" in params:  # of JAX 0.11 and later
            constants, carries, _ = (len(list(part)) for part in params["ft_in"].unpack())
        else:
            constants, carries = params["num_consts"], params["num_carry"]
        passed_on = [self.new(varies=True) for _ in range(carries)]
        whole = inputs[constants + carries :]
        slices = [self._number("slice", [each]) for each in whole]
        of_turn = self.of_program(params["jaxpr"], [*inputs[:constants], *passed_on, *slices])
        known = dict(zip(slices, whole, strict=True))
        stacked = (
            known[each] if each in known else self._number("stack", [each])
            for each in of_turn[carries:]
        )
        found = [*(self.new(varies=True) for _ in range(carries)), *stacked]
        self.turns |= dict.fromkeys(found[carries:], params["length"])
        return found


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
