"""The flat Transformer over bytes or tokens: the baseline of every other family.

A decoder-only Transformer as in Llama (arXiv 2302.13971): embedding, pre-norm blocks of causal
self-attention with rotary positions and an MLP, a final RMSNorm, and a head over the 256 bytes and
END. Documents packed into one row do not see each other. With a `vocabulary` of subword tokens it
is the subword model that byte models are compared with; the logits of a large vocabulary are never
held for a whole batch. Some options are for published models (`bytelm.models.released.decoder`).

Initialisation: kernels are normal of variance 1/d_in; those that end a residual branch have it
divided by 2 x depth (GPT-2). The embedding has standard deviation 1, the scale that the norms
expect of the residual stream. The untied head starts at zero, so an untrained model gives every
byte exactly log2(257) bits.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, Vocabulary
from bytelm.models.blocks import BlocksConfig
from bytelm.models.contract import Batch, ModelOutput, Unembedding
from bytelm.models.drafting import DraftingModel
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig, NormSpan, StackedConfig
from bytelm.nn.linear import Dense
from bytelm.nn.mesh import shard_rows
from bytelm.nn.norms import RMSNorm
from bytelm.nn.stack import MixedStack, Outputs, Stack
from bytelm.patching.levels import Symbols

LARGE = 2048
"""Vocabularies from this size on have their loss computed in chunks."""
NEVER = -1e9
"""A logit without probability."""


@dataclass(frozen=True)
class FlatConfig(BlocksConfig):
    """Base of the families that read every symbol with one stack of blocks."""

    is_flat: ClassVar[bool] = True

    width: int = 256
    """Channels of the residual stream."""
    heads: int | None = None
    """Query heads; None for width / head_width."""
    key_value_heads: int | None = None
    """Heads of keys and values (grouped-query attention), dividing `heads`; None for `heads`."""
    mlp_width: int | None = None
    """Channels inside the MLP; None for 4 x width, or 8/3 x width (up to a multiple of 64) for
    SwiGLU."""
    qk_norm: bool = False
    """Whether each head's queries and keys are RMS-normalised."""
    window: int | None = None
    """A position sees itself and the window - 1 positions before it; None for all before it."""
    tied_head: bool = False
    """Whether the head is the embedding."""
    scaled_head: bool = True
    """Whether a tied head is scaled by 1/sqrt(width)."""
    norm_epsilon: float = 1e-6
    """Added to the mean square in all norms."""
    vocabulary: int = BYTES
    """Symbols of text: 256 for bytes, or the number of tokens of `data.tokenizer`."""
    end_row: int | None = None
    """The row of the tables that stands for END, in a published model, whose tables have no rows of
    our own for END, START and PAD; None for these."""
    start_row: int | None = None
    """With `end_row`: the row that stands for START."""
    spare_rows: int = 0
    """With `end_row`: rows of the tables after those of text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("width", "heads", "key_value_heads")
        self.require_positive("mlp_width", "window", "vocabulary")
        self.require("it must be above 0", lambda x: x > 0, "norm_epsilon")
        self.require("it must be at least 0", lambda x: x >= 0, "spare_rows")
        self._check_published_symbols()
        if self.ngrams and self.vocabulary != BYTES:
            raise UserError(
                "model.ngrams are n-grams of bytes, and this model reads tokens; leave one of "
                "model.ngrams and data.tokenizer out."
            )

    def _check_published_symbols(self) -> None:
        rows = self.vocabulary + self.spare_rows
        self.require(
            f"the rows of the tables are 0 to {rows - 1}, by model.vocabulary and model.spare_rows",
            lambda x: 0 <= x < rows,
            "start_row",
            "end_row",
        )
        if (self.start_row is None) != (self.end_row is None):
            raise UserError(
                "only one of model.start_row and model.end_row is set; set both, or neither."
            )
        if self.end_row is None and self.spare_rows:
            raise UserError(
                f"model.spare_rows is {self.spare_rows}, and there is no model.end_row; set it "
                "too, or leave out both."
            )

    def require_attention_heads(self) -> None:
        """Raises UserError unless attention blocks can have the heads that are asked for."""
        if self.heads is None:
            self.require_heads("width")
        self.require_divisor("key_value_heads", self.heads or self.width // self.head_width)

    @property
    def symbols(self) -> Vocabulary:
        return Vocabulary(self.vocabulary)

    @property
    def table_rows(self) -> tuple[int, int]:
        """Rows of the embedding, and outputs of the head."""
        if self.end_row is None:
            return self.symbols.inputs, self.symbols.outputs
        return (self.vocabulary + self.spare_rows,) * 2

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.width, self.table_rows[1]

    @property
    def outputs(self) -> Outputs:
        """What the stack returns: draft heads may read the vectors before its last block."""
        return "last two" if self.draft.shortened else "last"

    def draft_blocks(self, depth: int, window: int | None) -> BlockConfig:
        blocks = self.attention_blocks(depth, dtype=self.dtype)
        return blocks if window is None else replace(blocks, mask=AttentionMask(window=window))

    def rows_of(self, ids: jax.Array) -> jax.Array:
        """The row of the embedding for each symbol."""
        if self.end_row is None:
            return ids
        special = jnp.array([self.end_row, self.start_row, self.end_row])  # END, START, PAD
        return jnp.where(ids < self.vocabulary, ids, special[jnp.clip(ids - self.vocabulary, 0, 2)])

    def of_symbols(self, logits: jax.Array) -> jax.Array:
        """The logits of text and END, `[..., V + 1]`, from those of all rows, `[..., rows]`.

        If END's row is among those of text, where it is no text, the probability of the spare rows
        takes its place there; otherwise that is divided among all symbols.
        """
        if self.end_row is None:
            return logits
        size, place = self.vocabulary, self.end_row
        end = logits[..., place : place + 1]
        if place >= size:
            return jnp.concatenate([logits[..., :size], end], axis=-1)
        spare = jnp.full_like(end, NEVER)
        if self.spare_rows:
            spare = jax.nn.logsumexp(logits[..., size:], axis=-1, keepdims=True)
        parts = [logits[..., :place], spare, logits[..., place + 1 : size], end]
        return jnp.concatenate(parts, axis=-1)

    def attention_blocks(self, depth: int, **options: Any) -> BlockConfig:
        """The shape of so many blocks with attention."""
        return self.block(
            self.width,
            depth,
            AttentionMask(window=self.window),
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            mlp_width=self.mlp_width,
            norm_epsilon=self.norm_epsilon,
            **options,
        )

    @property
    @abc.abstractmethod
    def stacked(self) -> Sequence[StackedConfig]:
        """The blocks in their order, equal ones together."""

    @abc.abstractmethod
    def build_stack(self, rngs: nnx.Rngs) -> Stack | MixedStack:
        """A stack of them."""

    def build(self, rngs: nnx.Rngs) -> "FlatModel":
        return FlatModel(self, rngs=rngs)

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        head = 2.0 * sequence_length * self.width * self.table_rows[1]
        return sum((blocks.forward_flops(sequence_length) for blocks in self.stacked), head)

    def frozen_flops(self, sequence_length: int, patches: float | None = None) -> float:
        return self.frozen_by_draft(sequence_length, patches)


@dataclass(frozen=True)
class TransformerConfig(FlatConfig):
    """A flat Transformer."""

    family: ClassVar[str] = "transformer"

    depth: int = 6
    """Number of blocks."""
    qk_norm_over: NormSpan = "head"
    """What `qk_norm` normalises: each head, or all heads together, as in OLMo 2."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases, as in Qwen 2."""
    rope_scaling: tuple[float, ...] = ()
    """Scaling of rotary positions as in Llama 3.1: factor, low and high factor of frequencies, and
    positions trained before; empty for none."""
    norm_after: bool = False
    """Whether the result of attention and MLP is normalised, as in OLMo 2, and not their input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("depth")
        self.require_attention_heads()
        scaling = self.rope_scaling
        if scaling and (len(scaling) != 4 or min(scaling) <= 0 or scaling[1] >= scaling[2]):
            raise UserError(
                f"model.rope_scaling is {scaling}; give four numbers above 0, the third greater "
                "than the second, such as 8 1 4 8192."
            )

    @property
    def blocks(self) -> BlockConfig:
        """The shape of the blocks."""
        return self.attention_blocks(self.depth)

    def attention_blocks(self, depth: int, **options: Any) -> BlockConfig:
        return super().attention_blocks(
            depth,
            qk_norm_over=self.qk_norm_over,
            qkv_bias=self.qkv_bias,
            rope_scaling=self.rope_scaling,
            norm_after=self.norm_after,
            **options,
        )

    @property
    def stacked(self) -> Sequence[BlockConfig]:
        return (self.blocks,)

    def build_stack(self, rngs: nnx.Rngs) -> Stack:
        return self.stack(self.blocks, rngs, outputs=self.outputs)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FlatState:
    """Decoding state."""

    stack: Any  # a `StackState` or a `MixedState`
    recent: jax.Array | None  # int32 [B, K], the last symbols, as `Symbols.before`
    draft: Any = None  # of draft heads, if they read along

    def following(self, ids: jax.Array, lengths: jax.Array) -> Symbols:
        """The next symbols `[B, N]` of the rows."""
        return Symbols.following(ids, self.stack.length, lengths, self.recent)


class FlatModel(DraftingModel):
    """The model that a `FlatConfig` builds."""

    def __init__(self, config: FlatConfig, *, rngs: nnx.Rngs):
        self.config = config
        inputs, outputs = config.table_rows
        self.embedding = config.build_embedding(inputs, config.width, rngs)
        self.stack = config.build_stack(rngs)
        epsilon, dtype = config.norm_epsilon, config.dtype
        self.final_norm = RMSNorm(config.width, epsilon=epsilon, dtype=dtype)
        if not config.tied_head:
            self.head = Dense(config.width, outputs, rngs=rngs, gain=0.0, role="head")
        self.build_draft(config, rngs)

    def _read(self, symbols: Symbols) -> jax.Array:
        return self.embedding.read(symbols, self.config.dtype, self.config.rows_of(symbols.ids))

    def __call__(self, batch: Batch) -> ModelOutput:
        x = shard_rows(self._read(Symbols.of_rows(batch.ids, batch.document_ids)))
        x = self.stack(x, batch.document_ids)
        return self.with_draft(self._output(self.unembed(self._last(x))), x, batch)

    def _output(self, head: Unembedding) -> ModelOutput:
        is_large = self.config.vocabulary >= LARGE
        return ModelOutput(head if is_large else head.logits(), states=head.states)

    def _last(self, x: jax.Array) -> jax.Array:
        """The last block's output, of the stack's."""
        return x[:, :, 1] if self.config.draft.shortened else x

    def read_by_heads(self, x: jax.Array) -> jax.Array:
        return x[:, :, 0] if self.config.draft.shortened else x

    def embed_symbols(self, ids: jax.Array) -> jax.Array:
        return self.embedding(self.config.rows_of(ids), self.config.dtype)

    def unembed(self, x: jax.Array, kernel: jax.Array | None = None) -> Unembedding:
        config, x = self.config, self.final_norm(x)
        if kernel is not None:
            return Unembedding(x, kernel, config.of_symbols)
        if not config.tied_head:
            return Unembedding(x, self.head.kernel[...], config.of_symbols)
        if config.scaled_head:
            x = x * config.width**-0.5
        table = self.embedding.embedding[...][: config.table_rows[1]]
        return Unembedding(x, table.T, config.of_symbols)

    def init_state(self, batch_size: int, max_length: int) -> FlatState:
        stack = self.stack.init_state(batch_size, max_length, self.config.dtype)
        return FlatState(stack, self.config.no_symbols(batch_size))

    def extend(
        self,
        ids: jax.Array,
        state: FlatState,
        lengths: jax.Array,
        *,
        group_ids: jax.Array | None = None,
    ) -> tuple[jax.Array, FlatState]:
        """As in `LanguageModel`; symbols see those with their own `group_ids`, int32 `[B, N]`."""
        head, state = self._extend(ids, state, lengths, group_ids)
        return head.logits(), state

    def advance(
        self, ids: jax.Array, state: FlatState, lengths: jax.Array
    ) -> tuple[ModelOutput, FlatState]:
        head, state = self._extend(ids, state, lengths)
        return self._output(head), state

    def _extend(
        self,
        ids: jax.Array,
        state: FlatState,
        lengths: jax.Array,
        group_ids: jax.Array | None = None,
    ) -> tuple[Unembedding, FlatState]:
        symbols = state.following(ids, lengths)
        x, stack = self.stack.extend(self._read(symbols), state.stack, lengths, group_ids=group_ids)
        draft = self.extend_draft(x, state.draft, lengths)
        return self.unembed(self._last(x)), FlatState(stack, symbols.recent, draft)
