"""Draft heads: further heads that predict the symbols after the next one.

Head 1 is the model's own; head i, from 2 to n, predicts symbol t + i from the model's vector at t.
Drafts of the heads save decoding steps, because the model verifies several of them in one; only
head 1 decides what the text is, and its likelihood. Three kinds:

- `linear`: one matrix for each head on the vectors after the final norm (EvaByte; the same as
  `apps/mtp` of Meta's lingua).
- `block`: one Transformer block for each head on the vectors before it, then the model's own norm
  and head (Gloeckle et al. 2024, arXiv 2404.19737). With `shortened`, as published, the heads read
  the vectors before the model's last block, which thus is the block of head 1.
- `chain`: each head reads the vector of the one before it and the embedding of the symbol that was
  drafted last, through an MLP block (as in Hydra, arXiv 2402.05109, and in DeepSeek-V3's modules,
  arXiv 2412.19437, which have attention too); then the model's own norm and head.

The loss is the main one plus the heads', each in nats per scored symbol and with its weight. The
sum of equal weights is that of 2404.19737; EvaByte divides it by n, which AdamW and Muon do not see
but for clipping. A target is never in another document than t, and counts where it counts for head
1. The published code masks neither.

Shapes: B = rows, T = symbols, d = channels, V = outputs of a head.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.variants import Variant
from bytelm.models.contract import ModelOutput, Unembedding
from bytelm.nn.block import BlockConfig, StackedConfig
from bytelm.nn.linear import Dense
from bytelm.nn.mlp import MLPKind
from bytelm.nn.residual import ResidualBlock, ResidualConfig
from bytelm.nn.stack import Remat, Stack

MOST = 64
"""The largest number of heads."""


class DraftedConfig(Protocol):
    """What heads need of a model's config (`bytelm.models.blocks.BlocksConfig`)."""

    family: ClassVar[str]
    is_flat: ClassVar[bool]

    @property
    def draft(self) -> "DraftConfig": ...
    @property
    def mlp(self) -> MLPKind: ...
    @property
    def remat(self) -> Remat: ...
    @property
    def head_shape(self) -> tuple[int, int]: ...
    def draft_blocks(self, depth: int, window: int | None) -> BlockConfig: ...


class DraftedModel(Protocol):
    """What heads need of a model (`bytelm.models.drafting.DraftingModel`)."""

    def unembed(self, x: jax.Array, kernel: jax.Array | None = None) -> jax.Array | Unembedding: ...
    def embed_symbols(self, ids: jax.Array) -> jax.Array: ...


@dataclass(frozen=True)
class DraftConfig(Variant, name="model.draft", small=True, key="kind"):
    """Base of the kinds of draft heads."""

    kind: ClassVar[str]
    train_model = True
    shortened = False

    def build(self, model: DraftedConfig, rngs: nnx.Rngs) -> "DraftHeads | None":
        """The heads of a model, with fresh parameters in float32."""
        return None

    def forward_flops(self, model: DraftedConfig, length: int) -> float:
        """`ModelConfig.draft_flops` of rows of so many symbols."""
        return 0.0

    def check(self, model: DraftedConfig) -> None:
        """Raises UserError if a model cannot have these heads."""


@dataclass(frozen=True)
class NoDraft(DraftConfig):
    """No heads but the model's own."""

    kind: ClassVar[str] = "none"


@dataclass(frozen=True)
class HeadsConfig(DraftConfig):
    """Options of all kinds of heads."""

    module: ClassVar[type["DraftHeads"]]

    heads: int = 4
    """n, how many symbols ahead are predicted; the first head is the model's own."""
    weights: tuple[float, ...] = ()
    """Of the losses of heads 2 to n in the training loss, in which head 1's has the weight 1; none
    for 1 each."""
    train_model: bool = True
    """Whether the model is trained too; otherwise the heads alone, and all else is frozen, as for
    heads that are added to a trained model (train.initial)."""

    def __post_init__(self) -> None:
        self.require(f"it must be from 2 to {MOST}", lambda x: 2 <= x <= MOST, "heads")
        if self.weights and len(self.weights) != self.heads - 1:
            raise UserError(
                f"model.draft.weights has {len(self.weights)} values, and there are "
                f"{self.heads - 1} heads after the first (model.draft.heads {self.heads}); give "
                "one for each, or none for 1 each."
            )
        if any(not np.isfinite(weight) or weight < 0 for weight in self.weights):
            raise UserError(f"model.draft.weights is {self.weights}; none may be below 0.")

    @property
    def ahead(self) -> int:
        """How many heads there are after the first."""
        return self.heads - 1

    def build(self, model: DraftedConfig, rngs: nnx.Rngs) -> "DraftHeads":
        return self.module(self, self.stacked(model), model, rngs=rngs)

    def forward_flops(self, model: DraftedConfig, length: int) -> float:
        width, outputs = model.head_shape
        return self.block_flops(model, length) + 2.0 * self.ahead * length * width * outputs

    @abc.abstractmethod
    def stacked(self, model: DraftedConfig) -> StackedConfig:
        """What each head has of its own."""

    def block_flops(self, model: DraftedConfig, length: int) -> float:
        """FLOPs of all that comes before the heads' logits."""
        return self.stacked(model).forward_flops(length)


class Item(NamedTuple):
    """What one head reads and predicts, int32 `[B, T]` each; in a scan `[n - 1, B, T]`."""

    symbols: jax.Array  # the last ones before its targets, for a chain
    targets: jax.Array  # UNSCORED where they do not count
    best: jax.Array | None  # head 1's best symbols there, in evaluation


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DraftState:
    """Decoding state of the heads."""

    stack: Any  # of the blocks that attend to earlier symbols; None in other kinds
    last: (
        jax.Array
    )  # [B, d], what drafting starts from after the last symbol; of blocks [B, n-1, d]


class DraftHeads(nnx.Module):
    """Heads 2 to n; a `HeadsConfig` builds them."""

    def __init__(
        self,
        config: HeadsConfig,
        blocks: StackedConfig,
        model: DraftedConfig,
        *,
        rngs: nnx.Rngs,
    ):
        self.config, self.width = config, model.head_shape[0]
        self.stack = Stack(blocks, rngs=rngs, remat=model.remat, outputs="parallel")

    def step(
        self, head: Any, h: jax.Array, document_ids: jax.Array, embed: Callable[[], jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """What the next head starts from, and what this one's logits come from, `[B, T, d]` both.

        `embed` gives the vectors of the symbols before the targets, `[B, T, d]`.
        """
        return h, h

    def kernel(self, head: Any) -> jax.Array | None:
        """The matrix `[d, V]` of a head's logits; None for the model's own."""
        return None

    def init_state(self, rows: int, length: int, dtype: jnp.dtype) -> DraftState:
        """Before the first of at most `length` symbols."""
        return DraftState(None, jnp.zeros((rows, self.width), dtype))

    def read(self, z: jax.Array, state: DraftState, lengths: jax.Array) -> DraftState:
        """The state after the first `lengths`, int32 `[B]`, of the vectors `[B, N, d]`."""
        return DraftState(None, _last(z, state.last, lengths))

    def start(self, head: Any, index: int, state: DraftState, h: Any, embedded: Any) -> Any:
        """As `step`, for the draft number `index` after the last symbol: `[B, 1, d]`."""
        return self.step(head, h, jnp.ones(h.shape[:2], jnp.int32), embedded)

    def score(
        self, model: DraftedModel, z: jax.Array, document_ids: jax.Array, items: Item
    ) -> tuple[jax.Array, jax.Array | None]:
        """The nats of all targets, and in evaluation where the heads agree: `[n - 1, B, T]` both.

        The logits of one head exist at a time, and the gradient recomputes them.
        """

        @partial(jax.checkpoint, prevent_cse=False)
        def scored(x: jax.Array, kernel: jax.Array | None, item: Item) -> Any:
            output = ModelOutput(model.unembed(x, kernel))
            agrees = None if item.best is None else output.best == item.best
            return output.nats(item.targets), agrees

        def one(head: Any, h: jax.Array, item: Item) -> Any:
            embed = partial(model.embed_symbols, item.symbols)
            h, x = self.step(head, h, document_ids, embed)
            return h, scored(x, self.kernel(head), item)

        found: tuple[jax.Array, jax.Array | None] = self.stack.map(one, z, items)[1]
        return found


def _last(z: jax.Array, before: jax.Array, lengths: jax.Array) -> jax.Array:
    """Of vectors `[B, N, ...]` the last of each row's; those before, `[B, ...]`, without any."""
    rows = jnp.arange(len(z))
    last = z[rows, jnp.maximum(lengths - 1, 0)]
    is_new = (lengths > 0).reshape(-1, *(1,) * (before.ndim - 1))
    return jnp.where(is_new, last.astype(before.dtype), before)


@dataclass(frozen=True)
class _Matrices:
    """The matrices of linear heads, as the config of a stack."""

    depth: int
    width: int
    outputs: int

    def build(self, rngs: nnx.Rngs) -> Any:
        return Dense(self.width, self.outputs, rngs=rngs, gain=0.0, role="head")

    def entries(self, length: int) -> int:
        return 1

    def forward_flops(self, length: float) -> float:
        return 0.0


class LinearHeads(DraftHeads):
    """A matrix for each head, zero at first."""

    def kernel(self, head: Dense) -> jax.Array:
        return head.kernel[...]


@dataclass(frozen=True)
class LinearDraft(HeadsConfig):
    """Linear heads on the vectors after the final norm."""

    kind: ClassVar[str] = "linear"
    module: ClassVar[type[DraftHeads]] = LinearHeads

    def stacked(self, model: DraftedConfig) -> StackedConfig:
        return _Matrices(self.ahead, *model.head_shape)


class BlockHeads(DraftHeads):
    """A Transformer block for each head, all of which read the same vectors."""

    def step(
        self, head: Any, h: jax.Array, document_ids: jax.Array, embed: Callable[[], jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return h, head(h, document_ids, None, None)

    def init_state(self, rows: int, length: int, dtype: jnp.dtype) -> DraftState:
        last = jnp.zeros((rows, self.config.ahead, self.width), dtype)
        return DraftState(self.stack.init_state(rows, length, dtype), last)

    def read(self, z: jax.Array, state: DraftState, lengths: jax.Array) -> DraftState:
        found, stack = self.stack.extend(z, state.stack, lengths)
        return DraftState(stack, _last(found, state.last, lengths))

    def start(self, head: Any, index: int, state: DraftState, h: Any, embedded: Any) -> Any:
        return h, state.last[:, index][:, None]


@dataclass(frozen=True)
class BlockDraft(HeadsConfig):
    """A Transformer block for each head, and the model's own norm and head."""

    kind: ClassVar[str] = "block"
    module: ClassVar[type[DraftHeads]] = BlockHeads

    window: int | None = None
    """A symbol sees itself and the window - 1 symbols before it; None for as many as in the model's
    own blocks over symbols, or all before it where these have no window."""
    shortened: bool = False
    """Whether the heads read the vectors before the model's last block, as published: only in flat
    families."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("window")

    def stacked(self, model: DraftedConfig) -> BlockConfig:
        blocks = model.draft_blocks(self.ahead, self.window)
        if not blocks.heads:
            raise UserError(
                f"the blocks of model.draft have {blocks.width} channels, less than one head of "
                f"model.head_width {blocks.head_width}; lower it, or choose another kind."
            )
        return blocks

    def check(self, model: DraftedConfig) -> None:
        if self.shortened and not model.is_flat:
            raise UserError(
                f"model.draft.shortened needs a flat family, and {model.family} has patches; leave "
                "it out."
            )


@dataclass(frozen=True, kw_only=True)
class ChainBlockConfig(ResidualConfig):
    """The blocks of a chain, as the config of a stack."""

    def build(self, rngs: nnx.Rngs) -> Any:
        return ChainBlock(self, rngs=rngs)

    def entries(self, length: int) -> int:
        return 1

    def forward_flops(self, length: float) -> float:
        return self.depth * length * (4.0 * self.width**2 + self.mlp_flops)


class ChainBlock(ResidualBlock):
    """`h + projection([norm(h), norm(e)])`, then `x + mlp(norm(x))`; e is a symbol's embedding."""

    def __init__(self, config: ChainBlockConfig, *, rngs: nnx.Rngs):
        self.state_norm, self.symbol_norm = config.build_norm(), config.build_norm()
        width = config.width
        self.projection = Dense(2 * width, width, rngs=rngs, gain=config.output_gain)
        self.build_mlp(config, rngs)

    def __call__(self, h: jax.Array, e: jax.Array) -> jax.Array:
        joined = [self.state_norm(h), self.symbol_norm(e)]
        x = h + self.projection(jnp.concatenate(joined, axis=-1)).astype(h.dtype)
        return self.add_mlp(x)


class ChainHeads(DraftHeads):
    """Each head continues from the one before it and from the symbol in between."""

    def step(
        self, head: Any, h: jax.Array, document_ids: jax.Array, embed: Callable[[], jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        h = head(h, embed().astype(h.dtype))
        return h, h


@dataclass(frozen=True)
class ChainDraft(HeadsConfig):
    """Heads that are conditioned on the symbols drafted before."""

    kind: ClassVar[str] = "chain"
    module: ClassVar[type[DraftHeads]] = ChainHeads

    mlp_width: int | None = None
    """Channels inside the MLP; None for the default of its kind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("mlp_width")

    def stacked(self, model: DraftedConfig) -> ChainBlockConfig:
        kind: MLPKind = model.mlp
        width, shape = model.head_shape[0], model.draft_blocks(self.ahead, None)
        return ChainBlockConfig(
            width=width,
            depth=self.ahead,
            mlp=kind,
            mlp_width=self.mlp_width,
            norm=shape.norm,
            norm_epsilon=shape.norm_epsilon,
            dtype=shape.dtype,
        )
