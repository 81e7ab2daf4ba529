"""Optimisers and learning-rate schedules, composed from optax."""

import abc
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.nn.roles import KERNELS, ROLES, Role, map_roles, trained

MUON_RMS = 0.2
"""Root mean square of a Muon update, that of a typical AdamW update (arXiv 2502.16982)."""
_BELOW_1 = "it must be from 0 to below 1"


@dataclass(frozen=True)
class OptimizerConfig(Variant, name="optimizer", key="name"):
    """The options of all optimisers: the schedule, weight decay and clipping.

    A subclass has a `name: ClassVar[str]`, and turns gradients into updates in `direction`.
    """

    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal[
        "cosine",
        "quarter_cosine",
        "warmup_stable_decay",
        "warmup_stable_sqrt_decay",
        "constant",
    ] = "cosine"
    """Shape after the warm-up: half a cosine (from its top to its bottom), a quarter (from its top
    to its zero), constant and then falling in the last `decay` of the steps, linearly or as
    1 - sqrt(x) of the part done (arXiv 2405.18392), or constant."""
    warmup: float = 0.02
    """Fraction of the steps in which the learning rate rises linearly from 0."""
    decay: float = 0.2
    """Fraction of the steps in which a schedule that is first constant falls."""
    final: float = 0.1
    """Learning rate at the last step, as a fraction of the peak."""
    weight_decay: float = 0.1
    """Decoupled weight decay, multiplied by the learning rate."""
    decayed: tuple[str, ...] = KERNELS
    """Which parameters are decayed: roles (`bytelm.nn.roles`), or regular expressions for their
    paths ("" matches all)."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; None for no clipping."""
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    """Pairs of a role or regular expression, as in `decayed`, and a factor of the learning rate.
    The first pair that fits a parameter holds."""
    fan_in_scaling: bool = False
    """Whether to multiply the learning rate of each kernel by d_in^-1/2 too."""
    lazy_tables: bool = True
    """Whether the rows of tables of n-grams that a batch does not read stay as they are, with no
    decay and no momentum; otherwise every step passes over all rows, as BLT's authors do."""

    def __post_init__(self) -> None:
        self.require("it must be positive", lambda x: x > 0, "learning_rate", "clip_norm")
        self.require("it must be at least 0", lambda x: x >= 0, "weight_decay")
        fraction = "it is a fraction from 0 to 1"
        self.require(fraction, lambda x: 0 <= x <= 1, "warmup", "decay", "final")
        if self.schedule.startswith("warmup_stable") and self.warmup + self.decay > 1:
            raise UserError(
                f"optimizer.warmup {self.warmup} and optimizer.decay {self.decay} are fractions "
                "of the same run and add up to more than 1; lower one of them."
            )
        for pattern, factor in self.lr_multipliers:
            if factor < 0:
                raise UserError(
                    f"optimizer.lr_multipliers gives {pattern!r} the factor {factor}; it must be "
                    "at least 0."
                )
        for pattern in (*self.decayed, *(pattern for pattern, _ in self.lr_multipliers)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"optimizer: {pattern!r} is no regular expression ({error}); correct it."
                ) from None

    @abc.abstractmethod
    def direction(self, roles: Any) -> optax.GradientTransformation:
        """Turns clipped gradients into updates, before weight decay and the learning rate.

        `roles` are those of the parameters (`bytelm.nn.roles.parameter_roles`).
        """

    def learning_rates(self, steps: int, peak: Any = None) -> optax.Schedule:
        """Learning rate of each step, from 0 to `steps` - 1.

        `peak` is a float32 scalar in place of `learning_rate`, such as an argument of a program.
        """
        peak = self.learning_rate if peak is None else peak
        last = peak * self.final
        warmup = round(self.warmup * steps)
        schedules, ends = [], []
        if warmup:
            schedules.append(optax.linear_schedule(0.0, peak, warmup))
            ends.append(warmup)
        if self.schedule == "cosine":
            schedules.append(optax.cosine_decay_schedule(peak, max(1, steps - warmup), self.final))
        elif self.schedule == "quarter_cosine":
            schedules.append(_quarter_cosine(peak, last, max(1, steps - warmup)))
        else:
            schedules.append(optax.constant_schedule(peak))
        if self.schedule.startswith("warmup_stable"):
            decay = max(1, round(self.decay * steps))
            is_linear = self.schedule == "warmup_stable_decay"
            fall = optax.linear_schedule if is_linear else _sqrt_decay
            schedules.append(fall(peak, last, decay))
            ends.append(steps - decay)
        joined = optax.join_schedules(schedules, ends)
        # The first step already moves, and the last one has the final rate.
        return lambda step: joined(step + 1)

    def build(self, steps: int, roles: Any) -> optax.GradientTransformationExtraArgs:
        """The optimiser for a run of `steps` steps and parameters with these roles.

        It is for the parameters that are not frozen (`bytelm.nn.roles.trained`). Its `update` takes
        a peak `learning_rate` in place of the config's, so that runs that differ only in it can
        share a compiled step.
        """
        roles = trained(roles, roles)
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity(),
            self.direction(roles),
            optax.add_decayed_weights(self.weight_decay, mask=self._is_decayed(roles)),
            optax.stateless(lambda updates, _: self._multiply(updates, roles)),
            self._descend(steps),
        )

    def _descend(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """Multiplies updates by minus the learning rate."""

        def init(params: Any) -> optax.ScaleByScheduleState:
            return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

        def update(
            updates: Any, state: Any, params: Any = None, *, learning_rate: Any = None, **_: Any
        ) -> tuple[Any, optax.ScaleByScheduleState]:
            rate = -self.learning_rates(steps, learning_rate)(state.count)
            scaled = jax.tree.map(lambda u: jnp.asarray(rate, u.dtype) * u, updates)
            return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

        return optax.GradientTransformationExtraArgs(init, update)

    def _is_decayed(self, roles: Any) -> Any:
        return map_roles(lambda *which: any(_fits(one, *which) for one in self.decayed), roles)

    def _multiply(self, updates: Any, roles: Any) -> Any:
        def factor(path: str, role: Role) -> float:
            return next((f for one, f in self.lr_multipliers if _fits(one, path, role)), 1.0)

        def multiply(update: jax.Array, role: Role, factor: float) -> jax.Array:
            if self.fan_in_scaling and role in KERNELS and update.ndim > 1:
                factor *= update.shape[-2] ** -0.5
            return update * factor

        return jax.tree.map(multiply, updates, roles, map_roles(factor, roles))


@dataclass(frozen=True)
class AdamW(OptimizerConfig):
    """AdamW (arXiv 1711.05101)."""

    name: ClassVar[str] = "adamw"

    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("it must be positive", lambda x: x > 0, "epsilon")
        self.require(_BELOW_1, lambda x: 0 <= x < 1, "beta1", "beta2")

    def direction(self, roles: Any) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)


@dataclass(frozen=True)
class Muon(AdamW):
    """Muon for the matrices inside the model's stacks, and AdamW for all other parameters.

    Its updates are scaled to the size of AdamW's, so that both share one learning rate.
    """

    name: ClassVar[str] = "muon"

    momentum: float = 0.95
    """Decay of Muon's momentum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(_BELOW_1, lambda x: 0 <= x < 1, "momentum")

    def direction(self, roles: Any) -> optax.GradientTransformation:
        parts = {"muon": self._orthogonal(), "adamw": super().direction(roles)}
        labels = map_roles(lambda _, role: "muon" if role == "matrix" else "adamw", roles)
        return optax.partition(parts, labels)

    def _orthogonal(self) -> optax.GradientTransformation:
        def dimensions(params: Any) -> Any:
            return jax.tree.map(
                lambda p: optax.contrib.MuonDimensionNumbers(p.ndim - 2, p.ndim - 1), params
            )

        def rescale(updates: Any, params: Any) -> Any:
            return jax.tree.map(lambda u: u * (MUON_RMS * max(u.shape[-2:]) ** 0.5), updates)

        return optax.chain(
            optax.contrib.scale_by_muon(
                beta=self.momentum, nesterov=True, weight_dimension_numbers=dimensions
            ),
            optax.stateless(rescale),
        )


def _fits(one: str, path: str, role: Role) -> bool:
    """Whether a role or regular expression fits a parameter."""
    return one == role if one in ROLES else re.search(one, path) is not None


def _quarter_cosine(peak: float, last: float, steps: int) -> optax.Schedule:
    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        return last + (peak - last) * jnp.cos(0.5 * jnp.pi * jnp.minimum(step, steps) / steps)

    return schedule


def _sqrt_decay(peak: float, last: float, steps: int) -> optax.Schedule:
    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        return last + (peak - last) * (1 - jnp.sqrt(jnp.clip(step / steps, 0.0, 1.0)))

    return schedule
