"""H-Net's router: a patch starts where a symbol's state is unlike the one before it.

With learned matrices W_q and W_k, identities at first, a boundary at t has the probability

    p_t = (1 - cos(W_q h_{t-1}, W_k h_t)) / 2,

and there is one if p_t > 1/2 (arXiv 2507.07955, section 2.2.1; the query comes from the previous
symbol and the threshold is strict, as in the authors' code). A document's first symbol starts a
patch with p = 1. All of it is float32, so that training, prefill and steps decide the same; the
authors' router runs in the dtype of the model, where exact ties occur.

Its own loss holds the rate of boundaries near 1/N. With F the share of symbols that are boundaries
and G the mean of p, both over all symbols of a level in the batch, it is

    N / (N - 1) ((N - 1) F G + (1 - F) (1 - G)).

The gradient comes through G alone, and pushes p up while F < 1/N. The authors' F and G are those of
one device, ours those of the whole batch. Boundaries without a free slot count in F.

Shapes: B = rows, T = symbols, d = channels.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.losses import AuxiliaryLoss, BatchLoss
from bytelm.core.statistics import Ratio, Statistic
from bytelm.nn.linear import Dense
from bytelm.nn.sequence import lagged
from bytelm.patching.learned import TARGET, loss_name, statistics_at
from bytelm.patching.patches import positions_in_run
from bytelm.patching.segmenter import Boundaries, Needs, Segmenter, SegmenterConfig, Supervision

PROBABILITY = Statistic("boundaries/probability", "share")
"""G, the mean probability of a boundary."""
RATIO_LOSS = Statistic("boundaries/ratio_loss")
"""The router's own loss, without its weight; 1 where F = G = 1/N."""
LEAST_NORM = 1e-12
"""Shorter vectors are not lengthened to norm 1: a zero vector gives p = 1/2."""


class Router(Segmenter):
    """Boundaries by similarity of neighbours.

    Its carry: the last state `[B, d]`, 0 before the first, and whether there was one, bool `[B]`.
    """

    def __init__(
        self, config: "RouterPatches", width: int, needs: Needs, *, rngs: nnx.Rngs, **options: Any
    ):
        self.config, self.width, self.mark = config, width, needs.mark
        self.query = Dense(width, width, rngs=rngs, role="projection")
        self.key = Dense(width, width, rngs=rngs, role="projection")
        for dense in (self.query, self.key):
            dense.kernel.set_value(jnp.eye(width))

    def __call__(
        self,
        states: jax.Array | None,
        ids: jax.Array,
        document_ids: jax.Array,
        carry: tuple[jax.Array, jax.Array] | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[Boundaries, tuple[jax.Array, jax.Array]]:
        assert states is not None
        last, begun = carry or self.init_carry(len(ids), ids.shape[1], states.dtype)
        first = positions_in_run(document_ids) == 0
        first = first.at[:, 0].set(~begun)
        seen = jnp.concatenate([last[:, None].astype(states.dtype), states], axis=1)  # [B, 1+T, d]
        previous = lagged(states, 1)[0] if carry is None else seen[:, :-1]
        previous = jnp.where(first[:, :, None], 0, previous)
        q = unit(self.query(previous.astype(jnp.float32)))
        k = unit(self.key(states.astype(jnp.float32)))
        p = jnp.clip((1 - (q * k).sum(axis=2)) / 2, 0.0, 1.0)  # [B, T]
        p = jnp.where(first, 1.0 if self.mark == "start" else 0.5, p)
        valid = document_ids > 0
        hard = (p > 0.5) & valid
        values = hard + (p - jax.lax.stop_gradient(p))
        own = jnp.cumprod((document_ids == document_ids[:, :1]) & valid, axis=1)
        count = own.sum(axis=1)
        last = jnp.take_along_axis(seen, count[:, None, None], axis=1)[:, 0]
        return Boundaries(hard, values, probabilities=p), (last, begun | (count > 0))

    def init_carry(self, rows: int, length: int, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros((rows, self.width), dtype), jnp.zeros((rows,), bool)

    def supervise(
        self, boundaries: Boundaries, seen: Supervision
    ) -> tuple[dict[str, AuxiliaryLoss], tuple[Ratio, ...]]:
        """The loss `boundaries`; the rate of boundaries, its target, and G."""
        assert boundaries.probabilities is not None
        counted, level = seen.document_ids > 0, seen.level
        loss = RatioLoss(
            symbols=counted.sum(),
            boundaries=(boundaries.hard & counted).sum(),
            probability=jnp.where(counted, boundaries.probabilities, 0.0).sum(),
            target=self.config.target,
            weight=self.config.weight,
            statistic=RATIO_LOSS.at(level),
        )
        statistics = (
            *statistics_at(boundaries.hard, seen._replace(counted=counted)),
            TARGET.at(level)(loss.symbols / loss.target, loss.symbols),
            PROBABILITY.at(level)(loss.probability, loss.symbols),
        )
        return {loss_name(level): loss}, statistics


def unit(x: jax.Array) -> jax.Array:
    """Vectors `[..., d]` of norm 1."""
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, LEAST_NORM**2))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RatioLoss(BatchLoss):
    """The loss of the module's docstring."""

    symbols: jax.Array  # int32
    boundaries: jax.Array  # int32
    probability: jax.Array  # float32, the sum of p
    target: float = field(metadata={"static": True})  # N, above 1
    weight: float = field(metadata={"static": True})
    statistic: Statistic = field(default=RATIO_LOSS, metadata={"static": True})

    @property
    def value(self) -> jax.Array:
        size = jnp.maximum(self.symbols, 1)
        share, mean, n = self.boundaries / size, self.probability / size, self.target
        return n / (n - 1) * ((n - 1) * share * mean + (1 - share) * (1 - mean))


@dataclass(frozen=True)
class RouterPatches(SegmenterConfig):
    """Patches start where neighbours are unlike each other (arXiv 2507.07955)."""

    kind: ClassVar[str] = "router"
    module: ClassVar[type[Any]] = Router
    reads_states: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True

    target: float = 6.0
    """N, the symbols per patch that its loss aims at; it may be a fraction."""
    weight: float = 0.03
    """Weight of its loss."""

    def check_values(self, where: str) -> None:
        self.require("it must be above 1", lambda x: x > 1, "target", where=where)
        self.require("it must be at least 0", lambda x: x >= 0, "weight", where=where)

    @property
    def default_bytes_per_slot(self) -> float:
        # Trained routers cut more often than their target says, by about a quarter.
        return max(1.0, self.target / 1.5)

    def forward_flops(self, width: int, length: float) -> float:
        return 4.0 * length * width * width
