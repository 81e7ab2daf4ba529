"""Segmenters: where the patches of a hierarchical model start or end, by any method.

A rule is a function of the bytes (`RulePatches`, `FixedPatches`); a learned segmenter reads the
model's states (`bytelm.patching.learned`). All have one interface, and every family takes those
that fit its `Needs`. A config, registered by its `kind`, builds the module that a model calls.
Importing `bytelm.models` registers all of them.

Shapes: B = rows, T = symbols, d = channels.
"""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.losses import AuxiliaryLoss
from bytelm.core.statistics import Ratio
from bytelm.core.variants import OWN_FILE, Variant, defined_in, not_imported
from bytelm.nn.norms import NormKind
from bytelm.patching.rules import RULES, Mark, Rule, RuleCarry, check_rule, find_edges


class Boundaries(NamedTuple):
    """The boundaries of packed rows."""

    hard: jax.Array
    """Bool `[B, T]`, whether a patch starts at (or ends with) the symbol; False in padding."""
    values: jax.Array
    """Float32 `[B, T]`, the same as numbers that carry a gradient, constant for a rule."""
    logits: jax.Array | None = None
    """Float32 `[B, T]`, a predictor's logits of a boundary; None from a rule."""
    probabilities: jax.Array | None = None
    """Float32 `[B, T]`, the probability of a boundary, with its gradient; None where it is just
    decided."""
    ids: jax.Array | None = None
    """Int32 `[B, T]`, the ids that the inner level reads; None for those of the symbols."""

    @classmethod
    def decided(cls, hard: jax.Array, ids: jax.Array | None = None) -> "Boundaries":
        """Those of a rule: nothing has a gradient."""
        return cls(hard, hard.astype(jnp.float32), ids=ids)


class Supervision(NamedTuple):
    """The inputs of a segmenter's loss, `[B, T]` each."""

    ids: jax.Array  # int32, the symbols
    document_ids: jax.Array  # int32
    counted: jax.Array  # bool, the symbols whose boundaries count
    predictions: jax.Array | None
    """Float32 `[B, T, outputs]`, the model's logits of the next symbol; None in an inner level."""
    scripts: jax.Array | None = None
    """Int32, the script of each symbol, as in a batch; None if the batch has none."""
    piece_ends: jax.Array | None = None
    """Bool, the symbols with which a piece of `data.unigram` ends; None likewise."""
    level: int = 1
    """1 where the symbols are bytes, 2 where they are patches of bytes, and so on."""


@dataclass(frozen=True)
class Needs:
    """A family's requirements for its segmenter, and its offers."""

    mark: Mark  # whether a patch starts at its boundary or ends with it
    states: bool = False  # the family has causal states of all bytes, which a predictor can read
    gradient: bool = False  # the family's loss reaches `Boundaries.values`
    known_ends: bool = False  # a patch's end must be known from the patch's own bytes
    longest: bool = False  # patches must have a greatest length
    supervised: bool = True
    """The symbols are bytes, for which a batch has scripts, and the model has predictions."""


class Segmenter(nnx.Module):
    """Finds boundaries; a `SegmenterConfig` builds it."""

    def __call__(
        self,
        states: jax.Array | None,
        ids: jax.Array,
        document_ids: jax.Array,
        carry: Any = None,
        keys: jax.Array | None = None,
    ) -> tuple[Boundaries, Any]:
        """Finds the boundaries of rows, or of the next symbols of rows. Those at t use 0 to t.

        Args:
            states: `[B, T, d]`; None in a family that has none.
            ids: int32 `[B, T]`.
            document_ids: int32 `[B, T]`; symbols after padding (0) are ignored.
            carry: from `init_carry` or the last call, all symbols of one document; None for whole
                rows.
            keys: uint32 `[B, 2]`, a random key for each row, in training.

        Returns:
            the boundaries, and the carry after the last symbol of each row's first document; None
            after whole rows if it holds the states of a model.
        """
        raise NotImplementedError

    def init_carry(self, rows: int, length: int, dtype: jnp.dtype) -> Any:
        """The carry before the first of at most `length` symbols: a pytree, batch axis first."""
        raise NotImplementedError

    def supervise(
        self, boundaries: Boundaries, seen: Supervision
    ) -> tuple[dict[str, AuxiliaryLoss], tuple[Ratio, ...]]:
        """Losses, as in `ModelOutput.auxiliary_losses`, and statistics."""
        return {}, ()


@dataclass(frozen=True)
class SegmenterConfig(Variant, name="model.segmenter", small=True, key="kind"):
    """Base of all segmenters. A subclass with a `kind` is registered under it."""

    kind: ClassVar[str]
    module: ClassVar[type[Any]]
    """The class that `build` calls, with the config and its own arguments."""
    reads_states: ClassVar[bool] = False
    """Whether it reads the model's states."""
    needs_gradient: ClassVar[bool] = False
    """Whether only the model's loss can teach it where boundaries belong."""
    needs_supervision: ClassVar[bool] = False
    """Whether its own loss needs more of the symbols than its boundaries."""
    needs_bytes: ClassVar[bool] = False
    """Whether its symbols must be bytes."""
    needs_unigram: ClassVar[bool] = False
    """Whether training needs the pieces of `data.unigram`."""

    @property
    @abc.abstractmethod
    def default_bytes_per_slot(self) -> float:
        """Symbols for each slot of the backbone, unless the model's config sets them."""

    @property
    def longest(self) -> int | None:
        """Most symbols in a patch; None for no limit."""
        return None

    @property
    def knows_ends(self) -> bool:
        """Whether a patch's last symbol is known from the patch's own symbols."""
        return True

    @property
    def scripts(self) -> tuple[str, ...]:
        """The scripts that batches must tell apart, in the order of their numbers."""
        return ()

    def forward_flops(self, width: int, length: float) -> float:
        """Floating-point operations of its matrix products, for `length` states of `width`."""
        return 0.0

    def frozen_flops(self, length: float) -> float:
        """Those among them of a model that is not trained."""
        return 0.0

    def build(
        self, width: int, needs: Needs, *, norm: NormKind | None, relu: bool, rngs: nnx.Rngs
    ) -> Segmenter:
        """The segmenter, with fresh parameters.

        Args:
            width: d, channels of the states.
            needs: of the family.
            norm: norm of the states before a predictor; None for no norm.
            relu: ReLU inside a predictor, in place of GELU.
        """
        return self.module(self, width, needs, norm=norm, relu=relu, rngs=rngs)

    def check_values(self, where: str) -> None:
        """Raises UserError for a value out of bounds; `where` is the field that holds the config.

        Only the model's config knows that field, so values are checked when it is made.
        """

    def check(self, needs: Needs, family: str, where: str = "model.segmenter") -> None:
        """Raises UserError unless its values are right and it fits a family's needs."""
        self.check_values(where)
        if self.reads_states and not needs.states:
            reason = "reads states of symbols, which the family has not computed when it cuts them"
        elif self.needs_supervision and not needs.supervised:
            reason = "learns from what is known of bytes alone, and cuts patches in this place"
        elif self.needs_bytes and not needs.supervised:
            reason = "reads bytes, and cuts patches in this place"
        elif self.needs_gradient and not needs.gradient:
            reason = "learns from the model's loss, which does not reach it in this family"
        elif needs.known_ends and not self.knows_ends:
            reason = "knows a patch's end only at the next byte, and the family needs it before"
        elif needs.longest and self.longest is None:
            reason = "has no longest patch; set longest_patch"
        else:
            return
        name = getattr(self, "rule", self.kind)
        raise UserError(f"{where} {name} does not fit the family {family}: it {reason}.")


class RuleSegmenter(Segmenter):
    """Boundaries by a rule; it has no parameters and ignores states and keys.

    In a family that reads ends and does not need them early, a patch ends with the symbol that the
    rule looks for: with `spacelike` and `words` the one that starts a patch elsewhere, such as the
    space before a word; with `fixed` a document's first symbol and every n-th after it.
    """

    def __init__(
        self, config: "RulePatches | FixedPatches", width: int, needs: Needs, **options: Any
    ):
        self.rule, self.longest = config.definition, config.longest
        check_rule(self.rule)
        own_mark = needs.mark == "end" and not needs.known_ends
        self.mark = self.rule.marks if own_mark else needs.mark

    def __call__(
        self,
        states: jax.Array | None,
        ids: jax.Array,
        document_ids: jax.Array,
        carry: RuleCarry | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[Boundaries, RuleCarry]:
        edges, carry = find_edges(self.rule, ids, document_ids, carry, longest=self.longest)
        return Boundaries.decided(edges.starts if self.mark == "start" else edges.ends), carry

    def init_carry(self, rows: int, length: int, dtype: jnp.dtype) -> RuleCarry:
        return RuleCarry.empty(rows)


@dataclass(frozen=True)
class RulePatches(SegmenterConfig):
    """Patches by a rule of `bytelm.patching.rules`."""

    kind: ClassVar[str] = "rule"
    module: ClassVar[type[Any]] = RuleSegmenter

    rule: str = "spacelike"
    """Which rule: spacelike, whitespace, space, whitespace_run, words, or one of your own."""
    longest_patch: int | None = None
    """Most symbols in a patch: bytes, or in an inner level patches. A longer one is split; None for
    no limit."""
    definition: ClassVar[Rule]
    """The rule of that name when the config was made."""

    def __post_init__(self) -> None:
        # A rule that is defined again is another rule, which no older program stands for.
        object.__setattr__(self, "definition", RULES.get(self.rule))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((self.rule, self.longest_patch))

    def check_values(self, where: str) -> None:
        names = [name for name in RULES if name != "fixed"]
        if self.rule not in names:
            hint = " (for a fixed length use FixedPatches)" if self.rule == "fixed" else ""
            raise UserError(
                f"{where}.rule is {self.rule!r}{did_you_mean(self.rule, names)}{hint}; "
                f"choose one of {', '.join(names)}. {OWN_FILE}"
            )
        self.require_positive("longest_patch", where=where)

    @property
    def origin(self) -> str | None:
        """Where the rule is defined."""
        return defined_in(self.definition.find)

    @classmethod
    def check_saved(cls, fields: dict[str, Any], where: str, origin: Any) -> None:
        """Raises UserError for a rule of a file that is not imported."""
        name = fields.get("rule")
        if isinstance(origin, str) and name not in RULES:
            raise not_imported(f"{where}.rule", name, origin)

    @property
    def default_bytes_per_slot(self) -> float:
        return 4.0

    @property
    def longest(self) -> int | None:
        return self.longest_patch

    @property
    def knows_ends(self) -> bool:
        return self.definition.marks == "end"


@dataclass(frozen=True)
class FixedPatches(SegmenterConfig):
    """Patches of a fixed number of symbols, counted from the start of each document."""

    kind: ClassVar[str] = "fixed"
    module: ClassVar[type[Any]] = RuleSegmenter
    definition: ClassVar[Rule] = RULES["fixed"]

    patch_size: int = 4
    """Symbols in a patch: bytes, or in an inner level patches."""

    def check_values(self, where: str) -> None:
        self.require_positive("patch_size", where=where)

    @property
    def default_bytes_per_slot(self) -> float:
        return max(1.0, self.patch_size / 1.125)

    @property
    def longest(self) -> int:
        return self.patch_size
