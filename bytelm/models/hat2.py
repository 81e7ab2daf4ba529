"""HAT, second version: byte states, one latent query per word, additive conditioning.

Hierarchical autoregressive Transformer over words (arXiv 2603.15953 and its public inference code).
A causal encoder runs over bytes. For each word, one learned query attends to the encoder's states
at the word's bytes and gives the word's vector. It has rotary positions inside the word and no
causal mask, because the word is complete when it is used. A causal backbone runs over the words.
The decoder continues from the encoder's states; before each of its blocks, every byte gets a
projection of the backbone's output at the previous word. There is no end-of-word symbol, since
words follow from the bytes.

Decided here, where nothing is published: encoder and decoder see a window of bytes. The query has
the position of the word's first byte. Packed documents do not see each other. A learned vector
replaces the previous word in each document's first word, and in all words of a document that
begins when no slot is left. Words longer than `longest_patch` are split.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.hierarchy import HierarchicalModel, TwoWidthsConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig, Condition, rotary
from bytelm.nn.linear import Dense
from bytelm.nn.mesh import shard_rows
from bytelm.nn.norms import NORMS
from bytelm.patching.levels import (
    LevelState,
    Result,
    Segmentation,
    Symbols,
    prepend,
    run,
    run_patches,
    take,
)
from bytelm.patching.patches import LEAST_SCORE, NO_PATCH, attention_pool, positions_in_run
from bytelm.patching.segmenter import Needs, RulePatches, SegmenterConfig


@dataclass(frozen=True)
class HAT2Config(TwoWidthsConfig):
    """Hierarchical autoregressive Transformer, second version."""

    family: ClassVar[str] = "hat2"
    needs: ClassVar[Needs] = Needs("start", states=True)

    encoder_depth: int = 3
    """Blocks of the encoder."""
    decoder_depth: int = 3
    """Blocks of the decoder."""
    window: int | None = 256
    """A byte sees itself and the window - 1 bytes before it; None for all before it."""
    global_key_value_heads: int | None = None
    """Heads of keys and values in the backbone, dividing its query heads; None for as many."""
    global_mlp_width: int | None = None
    """Channels inside the backbone's MLPs; None for the default of the kind."""
    segmenter: SegmenterConfig = field(default=RulePatches("words", longest_patch=100))
    """Where words start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("encoder_depth", "decoder_depth", "window")
        self.require_positive("global_key_value_heads", "global_mlp_width")
        self.require_divisor("global_key_value_heads", self.global_width // self.head_width)

    def encoder_block(self) -> BlockConfig:
        return self.block(self.local_width, self.encoder_depth, AttentionMask(window=self.window))

    def decoder_block(self) -> BlockConfig:
        mask, width = AttentionMask(window=self.window), self.global_width
        return self.block(self.local_width, self.decoder_depth, mask, condition_width=width)

    def global_block(self) -> BlockConfig:
        heads, hidden = self.global_key_value_heads, self.global_mlp_width
        block = super().global_block()
        return replace(block, key_value_heads=heads or block.heads, mlp_width=hidden)

    def build(self, rngs: nnx.Rngs) -> "HAT2":
        return HAT2(self, rngs=rngs)

    def local_flops(self, length: int, patches: float) -> float:
        d, width = self.local_width, self.global_width
        connector = length * 2 * d * d + patches * d * width
        conditions = self.decoder_depth * (patches + 1) * (width * d + d * d)
        head = length * d * OUTPUT_SIZE
        encoder, decoder = self.encoder_block(), self.decoder_block()
        stacks = encoder.forward_flops(length) + decoder.forward_flops(length)
        stacks += self.segmenter.forward_flops(d, length)
        return stacks + 2.0 * (connector + conditions + head)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OpenWord:
    """The unfinished word, as far as it has been read."""

    values: jax.Array  # [B, H, K], the mean value of its bytes, weighted by attention
    scores: jax.Array  # [B, H], the log-sum-exp of their scores
    length: jax.Array  # int32 [B], bytes read; 0 before the first word
    condition: jax.Array  # [B, global_width], the backbone's output at the word before


class WordPooling(nnx.Module):
    """For each word, one learned query attends to the states of the word's bytes."""

    def __init__(self, config: HAT2Config, *, rngs: nnx.Rngs):
        d = config.local_width
        self.heads, self.head_width = d // config.head_width, config.head_width
        self.theta = config.rope_theta
        self.norm = NORMS[config.norm](d)
        self.query = nnx.Param(
            jax.random.normal(rngs.params(), (self.heads, self.head_width)), role="vector"
        )
        self.key = Dense(d, d, rngs=rngs, tensor_axis=-1, role="projection")
        self.value = Dense(d, d, rngs=rngs, tensor_axis=-1, role="projection")
        self.output = Dense(d, config.global_width, rngs=rngs, tensor_axis=-2, role="projection")

    def members(self, x: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Scores `[B, N, H]` and values `[B, N, H, K]` of bytes at `places` `[B, N]` of words."""
        x = self.norm(x)
        shape = (*x.shape[:2], self.heads, self.head_width)
        keys, values = self.key(x).reshape(shape), self.value(x).reshape(shape)
        if self.theta is not None:
            keys = rotary(keys, places, self.theta)
        query = self.query[...].astype(jnp.float32)[None, None]
        scores = (keys.astype(jnp.float32) * query).sum(axis=-1) * self.head_width**-0.5
        return scores, values

    def words(self, values: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Pooled values `[B, P, H, K]` to word vectors `[B, P, global_width]`."""
        return self.output(values.reshape(*values.shape[:2], -1).astype(dtype))


class HAT2(HierarchicalModel):
    """The model that a `HAT2Config` builds."""

    config: HAT2Config

    def __init__(self, config: HAT2Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = config.build_embedding(INPUT_SIZE, config.local_width, rngs)
        self.encoder = config.stack(config.encoder_block(), rngs)
        self.segmenter = config.build_segmenter(config.local_width, rngs)
        self.pooling = WordPooling(config, rngs=rngs)
        self.backbone = config.stack(config.global_block(), rngs)
        self.backbone_norm = NORMS[config.norm](config.global_width)
        self.first_word = nnx.Param(
            jax.random.normal(rngs.params(), (config.global_width,)), role="vector"
        )
        self.decoder = config.stack(config.decoder_block(), rngs)
        self.final_norm, self.head = config.build_head(config.local_width, rngs)
        self.build_draft(config, rngs)

    def forward(self, symbols: Symbols, state: LevelState | None = None) -> Result:
        before = state or LevelState()
        x = shard_rows(self.embedding.read(symbols, self.config.dtype))
        x, encoder = run(self.encoder, x, symbols, before.encoder)
        cut, patching = self.segment(x, symbols, before.patching)
        y, complete, index, word = self._words(x, cut, state)
        y, backbone = run_patches(self.backbone, shard_rows(y), complete, before.inner)
        # Vector k is the backbone's output at word k - 1, for the bytes of word k.
        first = self._first(x) if state is None else state.open.condition
        vectors = prepend(first, self.backbone_norm(y))  # [B, 1 + P, D]
        condition = Condition(vectors, index)
        x, decoder = run(self.decoder, x, symbols, before.decoder, shared=condition)
        if word is None:
            return x, None, (cut,)
        word = replace(word, condition=take(vectors, complete.lengths[:, None])[:, 0])
        return x, LevelState(encoder, patching, backbone, word, decoder), ()

    def _first(self, x: jax.Array) -> jax.Array:
        """The vector for a document's first word, `[B, D]`."""
        first = self.first_word[...].astype(x.dtype)[None, :]
        return jnp.broadcast_to(first, (len(x), self.config.global_width))

    def _words(
        self, x: jax.Array, cut: Segmentation, state: LevelState | None
    ) -> tuple[jax.Array, Symbols, jax.Array, OpenWord | None]:
        """The vectors `[B, P, D]` of complete words, and these words as the backbone's symbols.

        Also the word that each byte is conditioned on, int32 `[B, T]`, from 1 (0 in a document's
        first word), and in decoding the unfinished word.
        """
        if state is not None:
            return self._next_words(x, cut, state)
        words, capacity = cut.patches, cut.patches.positions.shape[1]
        own = words.index  # [B, T]
        scores, values = self.pooling.members(x, positions_in_run(own))
        values, _ = attention_pool(
            scores, values, jnp.where(own == NO_PATCH, capacity, own), capacity
        )  # [B, P, H, K]
        number = take(words.number, jnp.maximum(own, 0))  # [B, T]
        index = jnp.where((own > 0) & (number > 0), own, 0)
        return self.pooling.words(values, x.dtype), cut.inner_symbols, index, None

    def _next_words(
        self, x: jax.Array, cut: Segmentation, state: LevelState
    ) -> tuple[jax.Array, Symbols, jax.Array, OpenWord]:
        words, symbols, open_word = cut.patches, cut.symbols, state.open
        new, last = x.shape[1], words.total[:, None]
        valid = symbols.document_ids > 0
        # Word 0 is the open one, whose bytes so far count as one member; then the new ones.
        groups = new + 1
        place = positions_in_run(words.count)  # [B, N]
        place = jnp.where(words.count == 0, place + open_word.length[:, None], place)
        scores, values = self.pooling.members(x, place)
        index = jnp.where(valid, words.count, groups)
        values, scores = attention_pool(
            prepend(open_word.scores, scores),
            prepend(open_word.values, values),
            jnp.pad(index, ((0, 0), (1, 0))),
            groups,
        )  # [B, 1 + N, H, K] and [B, 1 + N, H]
        read = jnp.where(last == 0, open_word.length[:, None], 0)
        read += ((words.count == last) & valid).sum(axis=1, keepdims=True)
        unfinished = OpenWord(
            take(values, last)[:, 0], take(scores, last)[:, 0], read[:, 0], open_word.condition
        )
        # All words but the last are complete; before a row's first word none is open.
        begun = (state.patching.opened > 0).astype(jnp.int32)  # [B]
        complete = jnp.maximum(words.total - 1 + begun, 0)
        chosen = jnp.minimum(jnp.arange(new)[None, :] + 1 - begun[:, None], new)
        y = self.pooling.words(take(values, chosen), x.dtype)
        index = jnp.maximum(words.count - 1 + begun[:, None], 0)
        return y, replace(cut.inner_symbols, lengths=complete), index, unfinished

    def init_parts(self, rows: int, length: int) -> LevelState:
        heads, head_width = self.pooling.heads, self.pooling.head_width
        word = OpenWord(
            values=jnp.zeros((rows, heads, head_width)),
            scores=jnp.full((rows, heads), LEAST_SCORE),
            length=jnp.zeros((rows,), jnp.int32),
            condition=self._first(jnp.zeros((rows, 0), self.config.dtype)),
        )
        return self.init_level(rows, length, encoder=self.encoder, open=word, decoder=self.decoder)
