"""Golden vectors: what the authors' own code returned, and their weights in our layout.

They are found through the environment variable BYTELM_GOLDEN_DIR, one folder for each system and
one `.npz` file for each case. The authors read and predict 256 bytes, of which 255 stands for the
beginning of a document; here that is START, and END, which they do not have, is left out of play.
"""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bytelm.core.vocabulary import BYTES, INPUT_SIZE, PAD, START, UNSCORED
from bytelm.models import Batch
from bytelm.models.contract import LanguageModel
from bytelm.models.hierarchy import HierarchyConfig
from bytelm.nn.stack import Stack

BEGINNING = 255
"""The byte that stands for the beginning of a document in the golden vectors."""

LOGITS = 1e-4
"""Absolute tolerance of logits, hidden states and losses."""
GRADIENTS = 1e-3
"""Tolerance of a gradient, relative to the largest of its array."""


@dataclass(frozen=True, eq=False)
class Case:
    """One file: its configuration, weights, inputs, results and gradients, each by name."""

    cfg: dict[str, Any]
    param: dict[str, np.ndarray]
    input: dict[str, np.ndarray]
    out: dict[str, np.ndarray]
    grad: dict[str, np.ndarray]

    @property
    def scored(self) -> np.ndarray:
        """Which targets the authors score, bool `[B, T]`."""
        return self.out.get("targets_after", self.input["targets"]) >= 0


@functools.cache
def load(path: Path) -> Case:
    groups: dict[str, dict[str, Any]] = {g: {} for g in ("cfg", "param", "in", "out", "grad")}
    with np.load(path) as file:
        for key, value in file.items():
            group, _, name = key.partition(".")
            groups[group][name] = value.tolist() if group == "cfg" else value
    return Case(*groups.values())


def cases(folder: str, wanted: Callable[[Mapping[str, np.ndarray]], bool]) -> list[Any]:
    """The files of a system whose contents are `wanted`, as parameters of a test or fixture."""
    directory = os.environ.get("BYTELM_GOLDEN_DIR")
    if directory is None:
        skip = pytest.mark.skip(reason="BYTELM_GOLDEN_DIR is not set")
        return [pytest.param(None, id="none", marks=skip)]
    files = sorted(Path(directory, folder).glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"BYTELM_GOLDEN_DIR is {directory}, and {folder} there is empty")
    found = []
    for path in files:
        with np.load(path) as file:
            if wanted(file):
                found.append(pytest.param(path, id=path.stem))
    return found


def symbols(tokens: np.ndarray) -> np.ndarray:
    """Bytes in our vocabulary: START for their beginning, PAD for -1."""
    ids = np.where(tokens == BEGINNING, START, tokens)
    return np.where(tokens < 0, PAD, ids).astype(np.int32)


def padded_batch(case: Case, length: int) -> Batch:
    """The case's rows, one document each, padded to `length`."""
    tokens = case.input["tokens"]

    def pad(values: np.ndarray, fill: int) -> np.ndarray:
        return np.pad(values, ((0, 0), (0, length - tokens.shape[1])), constant_values=fill)

    ids, targets = pad(symbols(tokens), PAD), pad(case.input["targets"], UNSCORED)
    return Batch(ids, targets, pad(np.ones_like(tokens), 0))


def embedding_parameters(table: jax.Array) -> dict[str, jax.Array]:
    """Of an `Embedding`: END, START and PAD have the vector of their beginning."""
    special = jnp.broadcast_to(table[BEGINNING], (INPUT_SIZE - BYTES, table.shape[1]))
    return {"embedding": jnp.concatenate([table, special])}


def head_parameters(weights: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Of the final norm and the head; END's column is zero."""
    kernel = weights["logits.logits_linear.weight"].T
    return {
        "final_norm": {"scale": weights["logits.layer_norm.scale"]},
        "head": {"kernel": jnp.pad(kernel, ((0, 0), (0, 1)))},
    }


def stack_parameters(weights: Mapping[str, jax.Array], prefix: str) -> dict[str, Any]:
    """Of a `Stack`, from the blocks `prefix.0`, `prefix.1` and so on."""
    depth = len({name.split(".")[1] for name in weights if name.startswith(prefix)})

    def stacked(name: str) -> jax.Array:
        return jnp.stack([weights[f"{prefix}.{layer}.{name}"] for layer in range(depth)])

    def scale(name: str) -> dict[str, jax.Array]:
        return {"scale": stacked(f"{name}.scale")}

    def dense(name: str) -> dict[str, jax.Array]:
        return {"kernel": stacked(f"{name}.weight").swapaxes(1, 2)}

    # They rotate neighbouring channels together, we channels half a head apart.
    head_width = weights[f"{prefix}.0.attention.Q_layer_norm.scale"].shape[0]
    order = np.r_[0:head_width:2, 1:head_width:2]

    def reordered(kernel: jax.Array) -> dict[str, jax.Array]:
        heads = kernel.reshape(*kernel.shape[:-1], -1, head_width)
        return {"kernel": heads[..., order].reshape(kernel.shape)}

    query, key, value = jnp.split(dense("attention.QKV_linear")["kernel"], 3, axis=-1)
    return {
        "blocks": {
            "attention_norm": scale("attention.layer_norm"),
            "attention": {
                "query": reordered(query),
                "key": reordered(key),
                "value": {"kernel": value},
                "output": dense("attention.linear"),
                "query_norm": {"scale": stacked("attention.Q_layer_norm.scale")[:, order]},
                "key_norm": {"scale": stacked("attention.K_layer_norm.scale")[:, order]},
            },
            "mlp_norm": scale("feedforward.layer_norm"),
            "mlp": {"up": dense("feedforward.linear_1"), "down": dense("feedforward.linear_2")},
        }
    }


Parameters = Callable[[Mapping[str, jax.Array]], dict[str, Any]]
"""From the golden weights, by name, to the parameters of the family's model."""


def checked_graph(case: Case, config: HierarchyConfig, parameters: Parameters) -> nnx.GraphDef:
    """The graph of the config's model, which has just the parameters that the weights become."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(parameters, case.param))
    assert shapes == jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    return graphdef


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Result:
    """What our model makes of a case's rows, T long.

    Attributes:
        logits: of the bytes, `[B, T, BYTES]`.
        loss_per_token: cross-entropy over the bytes, in nats, `[B, T]`; 0 where the authors do
            not score.
        nats: what all targets cost in our model, which may say END too, `[B, T]`.
        loss: the mean over rows of the mean of `loss_per_token` over what is scored.
        grad: its gradients, by the names of the golden weights; none if not asked for.
        stacks: input and output of each stack, in the order in which they run.
        opened: how many patches did.
        overflow: boundaries beyond the capacity.
    """

    logits: Any
    loss_per_token: Any
    nats: Any
    loss: Any
    grad: Any
    stacks: Any
    opened: Any
    overflow: Any


def evaluate(
    case: Case,
    config: HierarchyConfig,
    parameters: Parameters,
    length: int,
    *,
    gradients: bool = True,
) -> Result:
    """Runs the model with the golden weights on rows padded to `length`, and backward if asked."""
    graphdef = checked_graph(case, config, parameters)
    run_stack = Stack.__call__
    size = case.scored.shape[1]

    def run(weights: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Result]:
        stacks = []

        def recorded(self: Stack, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
            y = run_stack(self, x, *args, **kwargs)
            stacks.append((x, y))
            return y

        with mock.patch.object(Stack, "__call__", recorded):
            output = nnx.merge(graphdef, parameters(weights))(batch)
        logits, targets = output.logits[:, :size, :BYTES], batch.targets[:, :size]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        nats = jnp.where(case.scored, nats, 0)
        loss = (nats.sum(axis=1) / case.scored.sum(axis=1)).mean()
        all_nats = output.nats(batch.targets)[:, :size]
        opened = output.patch_starts.sum()
        return loss, Result(logits, nats, all_nats, loss, {}, stacks, opened, output.overflow)

    batch = padded_batch(case, length)
    if not gradients:
        return jax.device_get(jax.jit(run)(case.param, batch)[1])
    grad, result = jax.jit(jax.grad(run, has_aux=True))(case.param, batch)
    return jax.device_get(replace(result, grad=grad))


def prepared(
    make: Callable[[Any], LanguageModel], weights: Any, rows: int, length: int
) -> tuple[nnx.GraphDef, Any, Any]:
    """For decoding with the model made of the weights: its graph, parameters and an empty state.

    They are made by one program, which compiles faster than many.
    """
    graphs = []

    @jax.jit
    def run(weights: Any) -> tuple[Any, Any]:
        model = make(weights)
        state = model.init_state(rows, length)
        graphdef, params = nnx.split(model.for_decoding())
        graphs.append(graphdef)
        return params, state

    params, state = run(weights)
    return graphs[0], params, state


def decode(case: Case, config: HierarchyConfig, parameters: Parameters, length: int) -> np.ndarray:
    """Logits of the bytes `[B, T, BYTES]` from reading the case's rows symbol by symbol."""
    graphdef = checked_graph(case, config, parameters)
    ids, ones = symbols(case.input["tokens"]), np.ones(len(case.input["tokens"]), np.int32)
    with mock.patch("bytelm.patching.budget.SHORTEST", length):  # the slots of a whole row
        graphdef, params, cache = prepared(
            lambda weights: nnx.merge(graphdef, parameters(weights)), case.param, len(ids), length
        )
    extend = jax.jit(lambda params, *args: nnx.merge(graphdef, params).extend(*args))
    logits = []
    for symbol in ids.T:
        new, cache = extend(params, symbol[:, None], cache, ones)
        logits.append(np.asarray(new)[:, 0, :BYTES])
    return np.stack(logits, axis=1)


def assert_close(got: Any, wanted: Any, atol: float = LOGITS) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def assert_reproduced(case: Case, result: Result) -> None:
    """Logits and losses, to `LOGITS`."""
    assert_close(result.logits, case.out["logits"])
    assert_close(result.loss_per_token, case.out["loss_per_token"])
    per_row = result.loss_per_token.sum(axis=1) / case.scored.sum(axis=1)
    assert_close(per_row, case.out["loss_per_sequence"])
    assert_close(result.loss, case.out["loss"])
    if "loss_f64" in case.out:
        assert_close(result.loss, case.out["loss_f64"])


def assert_gradients(case: Case, result: Result) -> None:
    """All gradients that are stored, to `GRADIENTS`."""
    assert case.grad
    for name, wanted in case.grad.items():
        assert_close(result.grad[name], wanted, atol=GRADIENTS * np.abs(wanted).max())
