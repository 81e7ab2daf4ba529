"""What residual blocks share, whatever mixes their positions: branches, norms and the MLP."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.nn.mlp import GATED, MLP, MLPKind, default_mlp_width
from bytelm.nn.norms import NORMS, LayerNorm, NormKind, RMSNorm


@dataclass(frozen=True, kw_only=True)
class ResidualConfig:
    """Shape of the residual branches of one stack's blocks, and how their kernels start.

    Attributes:
        width: channels of the residual stream.
        depth: blocks of the stack.
        mlp: None for blocks without one.
        mlp_width: channels inside the MLP; None for the default of its kind.
        norm_epsilon: added to the mean square in the norms; None for the default of the kind.
        norm_after: whether the result of a branch is normalised, in place of its input.
        scaled_init: whether kernels that end a branch start smaller by a factor
            `1 / sqrt(additions)`.
        additions: the branches that are added to the residual stream, if it passes further
            stacks; None for those of this stack.
        deviation: initial standard deviation of all other kernels; None for `1 / sqrt(d_in)`.
        dtype: of the branches; None for that of the residual stream.
    """

    width: int
    depth: int
    mlp: MLPKind | None
    mlp_width: int | None
    norm: NormKind = "rms"
    norm_epsilon: float | None = None
    norm_after: bool = False
    scaled_init: bool = True
    additions: int | None = None
    deviation: float | None = None
    dtype: jnp.dtype | None = None

    @property
    def branches(self) -> int:
        """Residual branches of a block."""
        return 1 if self.mlp is None else 2

    @property
    def output_gain(self) -> float:
        """Factor of the initial kernels that end a residual branch."""
        additions = self.additions or self.branches * self.depth
        return additions**-0.5 if self.scaled_init else 1.0

    def gain(self, d_in: int) -> float:
        """Initial gain, as `Dense` takes it, of a kernel with so many inputs."""
        return 1.0 if self.deviation is None else self.deviation * d_in**0.5

    @property
    def hidden(self) -> int:
        """Channels inside the MLP; 0 without one."""
        if self.mlp is None:
            return 0
        return self.mlp_width or default_mlp_width(self.mlp, self.width)

    @property
    def mlp_flops(self) -> float:
        """FLOPs of the MLP at each position."""
        return 2.0 * self.width * self.hidden * (3 if self.mlp in GATED else 2)

    def build_norm(self) -> RMSNorm | LayerNorm:
        """The norm of a branch."""
        return NORMS[self.norm](self.width, epsilon=self.norm_epsilon, dtype=self.dtype)


class ResidualBlock(nnx.Module):
    """Base of residual blocks, whose last branch is an MLP, if they have one.

    A branch adds `branch(norm(x))` to x, or `norm(branch(x))` with `norm_after`.
    """

    def build_mlp(self, config: ResidualConfig, rngs: nnx.Rngs) -> None:
        self.norm_after = config.norm_after
        if config.mlp is not None:
            self.mlp_norm = config.build_norm()
            self.mlp = MLP(
                config.mlp,
                config.width,
                config.hidden,
                rngs=rngs,
                gain=config.gain(config.width),
                output_gain=config.gain(config.hidden) * config.output_gain,
            )

    def before(self, norm: RMSNorm | LayerNorm, x: jax.Array) -> jax.Array:
        """What a branch reads."""
        return x if self.norm_after else norm(x)

    def after(self, norm: RMSNorm | LayerNorm, y: jax.Array) -> jax.Array:
        """What it adds."""
        return norm(y) if self.norm_after else y

    def add_mlp(self, x: jax.Array) -> jax.Array:
        if not hasattr(self, "mlp"):
            return x
        return x + self.after(self.mlp_norm, self.mlp(self.before(self.mlp_norm, x)))
