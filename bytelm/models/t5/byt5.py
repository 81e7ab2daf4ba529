"""ByT5 (arXiv 2105.13626): the T5 v1.1 encoder-decoder over bytes.

As published: the blocks of T5 v1.1 (`bytelm.models.t5.blocks`), an embedding shared by encoder and
decoder, and an untied head over 384 ids.

Differences from the published code; a converted checkpoint computes the same:
- Tables are in the order of our symbols (`encoder_decoder.T5_IDS`); conversion reorders the rows.
- All kernels start as in T5X, with variance 1/d_in. Hugging Face's code starts the head with a
  standard deviation of 1, so its first logits are of the order of sqrt(d).
- There is no dropout; T5 v1.1 was pre-trained without it.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.vocabulary import PAD
from bytelm.models.encoder_decoder import (
    VOCABULARY,
    Encoded,
    EncoderDecoder,
    EncoderDecoderConfig,
    Reading,
)
from bytelm.models.t5.blocks import RelativeBias, T5BlockConfig, T5Context
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.mesh import shard_rows
from bytelm.nn.norms import RMSNorm
from bytelm.nn.stack import Remat, Stack
from bytelm.nn.stack_state import StackState
from bytelm.nn.state import NewPositions


@dataclass(frozen=True)
class ByT5Config(EncoderDecoderConfig):
    """A ByT5; the defaults are the published small one."""

    family: ClassVar[str] = "byt5"

    width: int = 1472
    """Channels of the residual stream."""
    encoder_depth: int = 12
    """Blocks of the encoder."""
    decoder_depth: int = 4
    """Blocks of the decoder."""
    heads: int = 6
    """Attention heads."""
    head_width: int = 64
    """Channels of one head; heads x head_width need not be the width."""
    mlp_width: int = 3584
    """Channels inside the MLP."""
    softmax1: bool = False
    """Whether the weights of attention may sum to less than 1: `exp(x) / (1 + sum exp(x))`."""
    scan: bool | None = None
    """Scan over the blocks of a stack, or unroll them; None scans above 12 blocks."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, all but matrix products and attention
    ("dots"), or "full"."""

    def __post_init__(self) -> None:
        self.require_positive("width", "encoder_depth", "decoder_depth", "heads")
        self.require_positive("head_width", "mlp_width")

    def block(self, depth: int, *, cross: bool) -> T5BlockConfig:
        """The shape of `depth` blocks of the encoder, or with `cross` of the decoder."""
        return T5BlockConfig(
            width=self.width,
            depth=depth,
            heads=self.heads,
            key_value_heads=self.heads,
            head_width=self.head_width,
            mlp="geglu",
            mlp_width=self.mlp_width,
            qk_norm=False,
            rope_theta=None,
            mask=AttentionMask(causal=cross),
            implementation="auto",
            cross=cross,
            softmax1=self.softmax1,
        )

    def build(self, rngs: nnx.Rngs) -> "ByT5":
        return ByT5(self, rngs=rngs)

    def forward_flops(
        self, sequence_length: int, patches: float | None = None, *, target_length: int = 0
    ) -> float:
        kept = self.training_slots(sequence_length) if patches is None else patches
        return self.encoder_flops(sequence_length, kept) + self.decoder_flops(kept, target_length)

    def training_slots(self, length: int) -> int:
        """Encoder states that the decoder reads in training, for a row of `length` inputs."""
        return length

    def encoder_flops(self, length: float, kept: float) -> float:
        return self.block(self.encoder_depth, cross=False).forward_flops(length)

    def decoder_flops(self, kept: float, targets: float) -> float:
        """FLOPs of the decoder and the head for `targets` symbols that attend to `kept` states."""
        inner = self.heads * self.head_width
        projections = 2.0 * self.width * inner * (2 * targets + 2 * kept)
        cross = self.decoder_depth * (projections + 4.0 * targets * kept * inner)
        own = self.block(self.decoder_depth, cross=True).forward_flops(targets)
        return own + cross + 2.0 * targets * self.width * VOCABULARY


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ByT5State:
    """Decoding state."""

    decoder: StackState
    """Of the decoder's blocks, with their keys and values of the encoder's outputs."""
    states_bias: jax.Array  # float32 [B, L], as `Encoded.bias`


class ByT5(EncoderDecoder):
    """The model that a `ByT5Config` builds."""

    def __init__(self, config: ByT5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Embedding(VOCABULARY, config.width, rngs=rngs)
        self.encoder, self.encoder_bias = self._stack(config.encoder_depth, False, rngs)
        self.encoder_norm = RMSNorm(config.width)
        self.decoder, self.decoder_bias = self._stack(config.decoder_depth, True, rngs)
        self.decoder_norm = RMSNorm(config.width)
        self.head = Dense(config.width, VOCABULARY, rngs=rngs, role="head")

    def _stack(self, depth: int, cross: bool, rngs: nnx.Rngs) -> tuple[Stack, RelativeBias]:
        config = self.config
        block = config.block(depth, cross=cross)
        stack = Stack(block, rngs=rngs, scan=config.scan, remat=config.remat)
        scale = config.width**-0.5
        bias = RelativeBias(config.heads, bidirectional=not cross, scale=scale, rngs=rngs)
        return stack, bias

    def read(self, inputs: jax.Array, keys: jax.Array | None = None) -> Reading:
        valid = inputs != PAD
        states = shard_rows(self.embedding(inputs, self.config.dtype))
        positions = jnp.broadcast_to(jnp.arange(inputs.shape[1])[None, :], inputs.shape)
        return Reading(states, positions, valid, valid, jnp.zeros(inputs.shape))

    def encode(self, reading: Reading, length: int | None = None) -> Encoded:
        states, keys_bias = reading.states[:, :length], reading.keys_bias[:, :length]
        context = T5Context(self.encoder_bias.whole_rows(states.shape[1]), keys_bias)
        return Encoded(self.encoder_norm(self.encoder(states, None, shared=context)), keys_bias)

    def decode(self, ids: jax.Array, encoded: Encoded) -> jax.Array:
        windows = self.decoder_bias.whole_rows(ids.shape[1])
        context = T5Context(windows, states=encoded.states, states_bias=encoded.bias)
        x = shard_rows(self.embedding(ids, self.config.dtype))
        return self._logits(self.decoder(x, None, shared=context))

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.head(self.decoder_norm(x)).astype(jnp.float32)

    def start(self, encoded: Encoded, max_length: int) -> ByT5State:
        states, dtype = encoded.states, self.config.dtype
        decoder = self.decoder.init_state(len(states), max_length, dtype, shared=states)
        return ByT5State(decoder, encoded.bias)

    def extend(
        self, ids: jax.Array, state: ByT5State, lengths: jax.Array
    ) -> tuple[jax.Array, ByT5State]:
        def context(new: NewPositions) -> T5Context:
            windows = self.decoder_bias.between(new.positions, new.key_positions)
            return T5Context(windows, states_bias=state.states_bias)

        x = self.embedding(ids, self.config.dtype)
        x, decoder = self.decoder.extend(x, state.decoder, lengths, shared=context)
        return self._logits(x), ByT5State(decoder, state.states_bias)
