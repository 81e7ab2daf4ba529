"""The flat Transformer over bytes or tokens: the baseline of every other family.

A decoder-only Transformer as in Llama (arXiv 2302.13971): embedding, pre-norm blocks of causal
self-attention with rotary positions and an MLP, a final RMSNorm, and a head over the 256 bytes and
END. Documents packed into one row do not see each other. With a `vocabulary` of subword tokens it
is the subword model that byte models are compared with; the logits of a large vocabulary are never
held for a whole batch.

Initialisation: kernels are normal of variance 1/d_in; those that end a residual branch have it
divided by 2 x depth (GPT-2). The embedding has standard deviation 1, the scale that the norms
expect of the residual stream. The untied head starts at zero, so an untrained model gives every
byte exactly log2(257) bits.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES, Vocabulary
from bytelm.models.contract import Batch, LanguageModel, ModelConfig, ModelOutput, Unembedding
from bytelm.nn.attention.attention import AttentionImplementation, AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.mesh import shard_rows
from bytelm.nn.mlp import MLPKind
from bytelm.nn.norms import RMSNorm
from bytelm.nn.stack import Remat, Stack, StackState

LARGE = 2048
"""Vocabularies from this size on have their loss computed in chunks."""


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """A flat Transformer."""

    family: ClassVar[str] = "transformer"

    width: int = 256
    """Channels of the residual stream."""
    depth: int = 6
    """Number of blocks."""
    head_width: int = 64
    """Channels of one attention head; even, for the rotary pairs."""
    heads: int | None = None
    """Query heads; None for width / head_width."""
    key_value_heads: int | None = None
    """Heads of keys and values (grouped-query attention), dividing `heads`; None for `heads`."""
    mlp: MLPKind = "swiglu"
    """Kind of MLP."""
    mlp_width: int | None = None
    """Channels inside the MLP; None for 4 x width, or 8/3 x width (up to a multiple of 64) for
    SwiGLU."""
    qk_norm: bool = False
    """Whether each head's queries and keys are RMS-normalised."""
    window: int | None = None
    """A position sees itself and the window - 1 positions before it; None for all before it."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    tied_head: bool = False
    """Whether the head is the embedding, scaled by 1/sqrt(width)."""
    vocabulary: int = BYTES
    """Symbols of text: 256 for bytes, or the number of tokens of `data.tokenizer`."""
    scan: bool | None = None
    """Scan over the blocks, or unroll them; None scans above 12 blocks."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, all but matrix products ("dots"), or "full"."""
    attention: AttentionImplementation = "auto"
    """Attention back end; "auto" picks the fastest exact one for the machine."""

    def __post_init__(self) -> None:
        self.require_positive("width", "depth", "head_width", "heads", "key_value_heads")
        self.require_positive("mlp_width", "window", "vocabulary")
        self.require_rotation(self.rope_theta, self.head_width)
        if self.heads is None and self.width % self.head_width:
            raise UserError(
                f"model.width {self.width} is no multiple of model.head_width {self.head_width}; "
                "change one of them, or set model.heads."
            )
        self.require_divisor("key_value_heads", self.heads or self.width // self.head_width)

    @property
    def symbols(self) -> Vocabulary:
        return Vocabulary(self.vocabulary)

    @property
    def block(self) -> BlockConfig:
        """The shape of the blocks."""
        heads = self.heads or self.width // self.head_width
        return BlockConfig(
            width=self.width,
            depth=self.depth,
            heads=heads,
            key_value_heads=self.key_value_heads or heads,
            head_width=self.head_width,
            mlp=self.mlp,
            mlp_width=self.mlp_width,
            qk_norm=self.qk_norm,
            rope_theta=self.rope_theta,
            mask=AttentionMask(causal=True, window=self.window),
            implementation=self.attention,
        )

    def build(self, rngs: nnx.Rngs) -> "Transformer":
        return Transformer(self, rngs=rngs)

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        head = 2.0 * sequence_length * self.width * self.symbols.outputs
        return self.block.forward_flops(sequence_length) + head


class Transformer(LanguageModel):
    """The model that a `TransformerConfig` builds."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Embedding(config.symbols.inputs, config.width, rngs=rngs)
        self.stack = Stack(config.block, rngs=rngs, scan=config.scan, remat=config.remat)
        self.final_norm = RMSNorm(config.width)
        if not config.tied_head:
            self.head = Dense(
                config.width, config.symbols.outputs, rngs=rngs, gain=0.0, role="head"
            )

    def __call__(self, batch: Batch) -> ModelOutput:
        x = shard_rows(self.embedding(batch.ids, self.config.dtype))
        x = self.stack(x, batch.document_ids)
        head = self._unembedding(x)
        is_large = self.config.vocabulary >= LARGE
        return ModelOutput(head if is_large else head.logits(), states=head.states)

    def _unembedding(self, x: jax.Array) -> Unembedding:
        x = self.final_norm(x)
        if self.config.tied_head:
            table = self.embedding.embedding[...][: self.config.symbols.outputs]
            return Unembedding(x * self.config.width**-0.5, table.T)
        return Unembedding(x, self.head.kernel[...])

    def init_state(self, batch_size: int, max_length: int) -> StackState:
        return self.stack.init_state(batch_size, max_length, self.config.dtype)

    def extend(
        self, ids: jax.Array, state: StackState, lengths: jax.Array
    ) -> tuple[jax.Array, StackState]:
        x = self.embedding(ids, self.config.dtype)
        x, state = self.stack.extend(x, state, lengths)
        return self._unembedding(x).logits(), state

    def roll_back(
        self, state: StackState, then: StackState, ids: jax.Array, lengths: jax.Array
    ) -> StackState:
        if state.can_truncate:
            return state.truncate(then.length + lengths)
        return super().roll_back(state, then, ids, lengths)
