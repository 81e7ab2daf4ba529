"""The Mamba-2 block (arXiv 2405.21060), with one group of keys and queries for all heads.

The mixer computes a gate z, values x, keys B, queries C and a step dt for each head from its
input. x, B and C pass a short causal convolution and SiLU. With dt = softplus(dt + bias) and
A = -exp(A_log), the recurrence of `bytelm.nn.ssd` gives y, and the output is
`W_out norm((y + D x) silu(z))`, with one norm over all heads. dt, decays, states and norms are
float32. Heads are divided over the mesh's `tensor` axis, and in the recurrence over `sequence` too.

Convolution and state begin again at 0 where the group id changes, so a group is a run of positions.

Shapes: B = rows, T = positions, N = new positions, H = heads, P = channels of a head, E = H P
inner channels, n = channels of keys and queries, w = width of the convolution.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.nn.linear import Dense
from bytelm.nn.mesh import shard_rows
from bytelm.nn.norms import RMSNorm
from bytelm.nn.residual import ResidualBlock, ResidualConfig
from bytelm.nn.sequence import lagged
from bytelm.nn.ssd import ssd, ssd_flops
from bytelm.nn.state import NewPositions

STEPS = (1e-3, 0.1)
"""dt starts log-uniform between these."""
RATES = (1.0, 16.0)
"""-A starts uniform between these."""


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(ResidualConfig):
    """Shape of the Mamba-2 blocks of one stack, which it builds.

    Attributes:
        inner: E, a multiple of `head_width`.
        head_width: P.
        state_width: n.
        convolution_width: w, the positions that the convolution sees.
        chunk: most positions of a chunk; it only changes rounding and speed.
    """

    inner: int
    head_width: int = 64
    state_width: int = 128
    convolution_width: int = 4
    chunk: int = 64

    @property
    def heads(self) -> int:
        return self.inner // self.head_width

    def build(self, rngs: nnx.Rngs) -> "Mamba2Block":
        return Mamba2Block(self, rngs=rngs)

    def entries(self, length: int) -> int:
        return 1

    def forward_flops(self, length: float) -> float:
        inputs = 2.0 * self.width * (2 * self.inner + 2 * self.state_width + self.heads)
        linear = inputs + 2.0 * self.inner * self.width + self.mlp_flops
        mixing = ssd_flops(length, self.chunk, self.heads, self.head_width, self.state_width)
        return self.depth * (length * linear + mixing)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mamba2State:
    """What a block remembers of the positions that it has read.

    Attributes:
        inputs: `[B, w - 1, channels]`, the last inputs of the convolutions of x, B and C, oldest
            first; 0 before the group.
        state: float32 `[B, n, H, P]`.
        group: int32 `[B]`, the group of the last position.
    """

    inputs: tuple[jax.Array, ...]
    state: jax.Array
    group: jax.Array


class CausalConvolution(nnx.Module):
    """Each channel's own convolution over the last `width` positions, then SiLU, in float32."""

    def __init__(
        self, channels: int, width: int, *, rngs: nnx.Rngs, tensor_axis: int | None = None
    ):
        def uniform(*shape: int) -> jax.Array:
            bound = width**-0.5
            return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)

        self.kernel = nnx.Param(
            uniform(width, channels), tensor_axis=tensor_axis, role="convolution"
        )
        self.bias = nnx.Param(uniform(channels), tensor_axis=tensor_axis, role="bias")

    def __call__(self, x: jax.Array, before: jax.Array | None, runs: jax.Array) -> jax.Array:
        """`[B, T, C]` to the same; runs int32 `[B, T]`.

        `before` `[B, w - 1, C]` is what came before, of run 0; None for whole rows.
        """
        length, width = x.shape[1], self.kernel.shape[0]

        @jax.checkpoint  # the backward pass stores x alone
        def convolved(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
            if before is None:
                inputs: Any = lagged(x, width - 1)
            else:
                known = jnp.concatenate([before.astype(x.dtype), x], axis=1)
                inputs = [known[:, first : first + length] for first in range(width)]
            input_runs = jnp.pad(runs, ((0, 0), (width - 1, 0)))
            total = jnp.broadcast_to(bias[None, None, :], x.shape)
            for first, (weights, earlier) in enumerate(zip(kernel, inputs, strict=True)):
                seen = input_runs[:, first : first + length] == runs  # [B, T]
                earlier = jnp.where(seen[:, :, None], earlier.astype(jnp.float32), 0.0)
                total = total + earlier * weights[None, None, :]
            return nnx.silu(total).astype(x.dtype)

        return convolved(x, self.kernel[...], self.bias[...])


def last_inputs(before: jax.Array, x: jax.Array, runs: jax.Array, count: jax.Array) -> jax.Array:
    """What a convolution must remember, `[B, w - 1, C]` as `before`, after `count` of `x`."""
    inputs = jnp.concatenate([before, x.astype(before.dtype)], axis=1)
    runs = jnp.pad(runs, ((0, 0), (before.shape[1], 0)))
    places = count[:, None] + jnp.arange(before.shape[1])[None, :]  # [B, w - 1]
    inputs = jnp.take_along_axis(inputs, places[:, :, None], axis=1)
    runs = jnp.take_along_axis(runs, places, axis=1)
    return jnp.where((runs == runs[:, -1:])[:, :, None], inputs, 0)


class Mamba2Mixer(nnx.Module):
    """`[B, T, width] -> [B, T, width]`; the module's docstring has the formula."""

    def __init__(self, config: Mamba2Config, *, rngs: nnx.Rngs):
        self.config = config
        inner, heads, width = config.inner, config.heads, config.width

        def dense(d_out: int, tensor_axis: int | None = None) -> Dense:
            return Dense(width, d_out, rngs=rngs, gain=config.gain(width), tensor_axis=tensor_axis)

        def convolution(channels: int, tensor_axis: int | None = None) -> CausalConvolution:
            return CausalConvolution(
                channels, config.convolution_width, rngs=rngs, tensor_axis=tensor_axis
            )

        self.gate, self.value = dense(inner, -1), dense(inner, -1)
        self.key, self.query = dense(config.state_width), dense(config.state_width)
        self.step = dense(heads, -1)
        self.value_convolution = convolution(inner, -1)
        self.key_convolution = convolution(config.state_width)
        self.query_convolution = convolution(config.state_width)
        low, high = map(math.log, STEPS)
        dt = jnp.exp(jax.random.uniform(rngs.params(), (heads,), minval=low, maxval=high))
        inverse_softplus = dt + jnp.log(-jnp.expm1(-dt))
        self.step_bias = nnx.Param(inverse_softplus, tensor_axis=-1, role="bias")
        rates = jax.random.uniform(rngs.params(), (heads,), minval=RATES[0], maxval=RATES[1])
        self.log_rate = nnx.Param(jnp.log(rates), tensor_axis=-1, role="recurrence")
        self.skip = nnx.Param(jnp.ones((heads,)), tensor_axis=-1, role="recurrence")
        self.norm = RMSNorm(inner, epsilon=config.norm_epsilon)
        output_gain = config.gain(inner) * config.output_gain
        self.output = Dense(inner, width, rngs=rngs, gain=output_gain, tensor_axis=-2)

    @property
    def _convolved(self) -> tuple[tuple[Dense, CausalConvolution], ...]:
        return (
            (self.value, self.value_convolution),
            (self.key, self.key_convolution),
            (self.query, self.query_convolution),
        )

    def init_state(self, batch: int, dtype: jnp.dtype) -> Mamba2State:
        config = self.config
        channels = config.inner, config.state_width, config.state_width
        earlier = config.convolution_width - 1
        shape = (batch, config.state_width, config.heads, config.head_width)
        return Mamba2State(
            tuple(jnp.zeros((batch, earlier, each), dtype) for each in channels),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros((batch,), jnp.int32),
        )

    def __call__(self, x: jax.Array, group_ids: jax.Array | None) -> jax.Array:
        """Whole rows."""
        if group_ids is None:
            group_ids = jnp.zeros(x.shape[:2], jnp.int32)
        runs = jnp.cumsum(jnp.diff(group_ids, axis=1, prepend=group_ids[:, :1]) != 0, axis=1)
        before = (None,) * len(self._convolved)
        return self._mix(x, [dense(x) for dense, _ in self._convolved], before, runs)[0]

    def extend(
        self, x: jax.Array, before: Mamba2State, new: NewPositions
    ) -> tuple[jax.Array, Mamba2State]:
        """The next N positions of each row."""
        valid = new.positions >= 0  # [B, N], the first ones of each row
        groups = jnp.concatenate([before.group[:, None], new.group_ids], axis=1)
        runs = jnp.cumsum((jnp.diff(groups, axis=1) != 0) & valid, axis=1)
        inputs = [dense(x) for dense, _ in self._convolved]
        mixed, state = self._mix(x, inputs, before.inputs, runs, before.state, valid)
        count = valid.sum(axis=1)
        group = jnp.take_along_axis(groups, count[:, None], axis=1)[:, 0]
        kept = (last_inputs(*each, runs, count) for each in zip(before.inputs, inputs, strict=True))
        return mixed, Mamba2State(tuple(kept), state, group)

    def _mix(
        self,
        x: jax.Array,
        inputs: list[jax.Array],
        before: tuple[jax.Array | None, ...],
        runs: jax.Array,
        state: jax.Array | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """The output, and the recurrent state after the valid positions."""
        config = self.config
        values, keys, queries = (
            convolve(part, earlier, runs)
            for (_, convolve), part, earlier in zip(self._convolved, inputs, before, strict=True)
        )
        values = values.reshape(*x.shape[:2], config.heads, config.head_width)
        dt = self.step(x).astype(jnp.float32) + self.step_bias[...][None, None, :]
        dt = jax.nn.softplus(dt)
        if valid is not None:
            dt = jnp.where(valid[:, :, None], dt, 0.0)  # the state stays as it is
        rates = -jnp.exp(self.log_rate[...])
        y, state = ssd(values, dt, rates, keys, queries, runs, state, longest=config.chunk)

        @jax.checkpoint  # the backward pass stores y, values and the gate alone
        def gated(y: jax.Array, values: jax.Array, gate: jax.Array) -> jax.Array:
            wide = y.astype(jnp.float32)
            wide = wide + self.skip[...][None, None, :, None] * values.astype(jnp.float32)
            wide = wide.reshape(*x.shape[:2], -1) * nnx.silu(gate.astype(jnp.float32))
            return self.norm(wide).astype(x.dtype)

        return self.output(gated(y, values, self.gate(x))), state


class Mamba2Block(ResidualBlock):
    """`x + mixer(norm(x))`, then `x + mlp(norm(x))` if it has an MLP."""

    def __init__(self, config: Mamba2Config, *, rngs: nnx.Rngs):
        self.mixer_norm = config.build_norm()
        self.mixer = Mamba2Mixer(config, rngs=rngs)
        self.build_mlp(config, rngs)

    def __call__(
        self,
        x: jax.Array,
        group_ids: jax.Array | None,
        positions: jax.Array | None = None,
        shared: None = None,
    ) -> jax.Array:
        x = shard_rows(x)
        mixed = self.mixer(self.before(self.mixer_norm, x), group_ids)
        return self.add_mlp(x + self.after(self.mixer_norm, mixed))

    def init_state(
        self, batch: int, length: int, dtype: jnp.dtype, shared: None = None
    ) -> Mamba2State:
        return self.mixer.init_state(batch, dtype)

    def extend(
        self, x: jax.Array, state: Mamba2State, new: NewPositions, shared: None = None
    ) -> tuple[jax.Array, Mamba2State]:
        mixed, state = self.mixer.extend(self.before(self.mixer_norm, x), state, new)
        return self.add_mlp(x + self.after(self.mixer_norm, mixed)), state
