"""HAT, second version: byte states, one latent query per word, additive conditioning.

Hierarchical autoregressive Transformer over words (arXiv 2603.15953 and its public inference
code). A causal encoder runs over bytes. In each word, one learned query attends to the word's
encoder states (rotary positions inside the word, no causal mask: the word is complete when it is
used) and gives the word's vector. A causal backbone runs over the words. The decoder continues
from the encoder's states; before each of its blocks, every byte gets a projection of what the
backbone said at the word before its own. There is no end-of-word symbol: where words end, the rule
sees from the bytes.

Decided here, where nothing is published: encoder and decoder see a window of bytes; the query is
scored as if it stood at the word's first byte; documents packed into one row do not see each other,
and each one's first word gets a learned vector, as do the words of a document that begins when the
row has no room for another word. Words longer than `longest_patch` are split.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE
from bytelm.models.contract import Batch, LanguageModel, ModelOutput
from bytelm.models.hierarchy import HierarchyConfig, extend_backbone, supervise
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig, Condition
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.norms import NORMS
from bytelm.nn.partitioning import shard_rows
from bytelm.nn.rope import rotary
from bytelm.nn.stack import StackState
from bytelm.patching.patches import (
    LEAST_SCORE,
    NO_PATCH,
    attention_pool,
    find_patches,
    positions_in_run,
)
from bytelm.patching.segmenter import Needs, RulePatches, SegmenterConfig


@dataclass(frozen=True)
class HAT2Config(HierarchyConfig):
    """Hierarchical autoregressive Transformer, second version."""

    family: ClassVar[str] = "hat2"
    needs: ClassVar[Needs] = Needs("start", states=True)

    local_width: int = 256
    """Channels of the encoder and the decoder."""
    encoder_depth: int = 3
    """Blocks of the encoder."""
    decoder_depth: int = 3
    """Blocks of the decoder."""
    window: int | None = 256
    """A byte sees itself and the window - 1 bytes before it; None for all before it."""
    global_width: int = 512
    """Channels of the backbone."""
    global_depth: int = 6
    """Blocks of the backbone."""
    global_key_value_heads: int | None = None
    """Heads of keys and values in the backbone, dividing its query heads; None for as many."""
    global_mlp_width: int | None = None
    """Channels inside the backbone's MLPs; None for the default of the kind."""
    segmenter: SegmenterConfig = field(default=RulePatches("words", longest_patch=100))
    """Where words start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive(
            "encoder_depth",
            "decoder_depth",
            "window",
            "global_depth",
            "global_key_value_heads",
            "global_mlp_width",
        )
        self.require_heads("local_width", "global_width")
        self.require_divisor("global_key_value_heads", self.global_width // self.head_width)

    def encoder_block(self) -> BlockConfig:
        return self.block(self.local_width, self.encoder_depth, AttentionMask(window=self.window))

    def decoder_block(self) -> BlockConfig:
        return self.block(
            self.local_width,
            self.decoder_depth,
            AttentionMask(window=self.window),
            condition_width=self.global_width,
        )

    def global_block(self) -> BlockConfig:
        return self.block(
            self.global_width,
            self.global_depth,
            AttentionMask(),
            key_value_heads=self.global_key_value_heads,
            mlp_width=self.global_mlp_width,
        )

    def build(self, rngs: nnx.Rngs) -> "HAT2":
        return HAT2(self, rngs=rngs)

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        patches = self.capacity(sequence_length) if patches is None else patches
        d, width = self.local_width, self.global_width
        connector = sequence_length * 2 * d * d + patches * d * width
        conditions = self.decoder_depth * (patches + 1) * (width * d + d * d)
        head = sequence_length * d * OUTPUT_SIZE
        return (
            self.encoder_block().forward_flops(sequence_length)
            + self.decoder_block().forward_flops(sequence_length)
            + self.global_block().forward_flops(patches)
            + self.segmenter.forward_flops(d, sequence_length)
            + 2.0 * (connector + conditions + head)
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OpenWord:
    """What is known of the word being read.

    Attributes:
        values: `[B, H, K]`, the query's mean over the bytes read so far.
        scores: `[B, H]`, the log-sum-exp of their scores.
        length: int32 `[B]`, bytes read; 0 before the first word.
        condition: `[B, global_width]`, what the backbone said at the word before.
    """

    values: jax.Array
    scores: jax.Array
    length: jax.Array
    condition: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HAT2State:
    """Decoding state.

    Attributes:
        word: the word being read.
        words: int32 `[B]`, words opened; the backbone has seen all but the last.
        encoder, carry, backbone, decoder: of the stacks and the segmenter.
    """

    encoder: StackState
    carry: Any
    word: OpenWord
    words: jax.Array
    backbone: StackState
    decoder: StackState


class WordPooling(nnx.Module):
    """One learned query per word attends to the word's byte states: `[B, N, d] -> words`."""

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


class HAT2(LanguageModel):
    """The model that a `HAT2Config` builds."""

    def __init__(self, config: HAT2Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Embedding(INPUT_SIZE, config.local_width, rngs=rngs)
        self.encoder = config.stack(config.encoder_block(), rngs)
        self.segmenter = config.segmenter.build(
            config.local_width, config.needs, norm=config.norm, relu=config.mlp == "relu", rngs=rngs
        )
        self.pooling = WordPooling(config, rngs=rngs)
        self.backbone = config.stack(config.global_block(), rngs)
        self.backbone_norm = NORMS[config.norm](config.global_width)
        self.first_word = nnx.Param(
            jax.random.normal(rngs.params(), (config.global_width,)), role="vector"
        )
        self.decoder = config.stack(config.decoder_block(), rngs)
        self.final_norm = NORMS[config.norm](config.local_width)
        gain = 0.0 if config.scaled_init else 1.0
        self.head = Dense(config.local_width, OUTPUT_SIZE, rngs=rngs, gain=gain, role="head")

    def __call__(self, batch: Batch) -> ModelOutput:
        ids, document_ids = batch.ids, batch.document_ids
        x = shard_rows(self.embedding(ids, self.config.dtype))
        x = self.encoder(x, document_ids)
        boundaries, _ = self.segmenter(x, ids, document_ids, keys=batch.keys)
        capacity = self.config.capacity(ids.shape[1])
        patches = find_patches(boundaries.hard, document_ids, capacity)
        word = patches.index
        index = jnp.where(word == NO_PATCH, capacity, word)
        scores, values = self.pooling.members(x, positions_in_run(word))
        values, _ = attention_pool(scores, values, index, capacity)
        y = shard_rows(self.pooling.words(values, x.dtype))
        y = self.backbone_norm(self.backbone(y, patches.document_ids))

        # Vector k is what the backbone said at word k - 1: for the bytes of word k.
        vectors = jnp.concatenate([self._first(len(ids), y.dtype), y], axis=1)
        number = jnp.take_along_axis(patches.number, jnp.maximum(word, 0), axis=1)
        condition = Condition(vectors, jnp.where((word > 0) & (number > 0), word, 0))
        x = self.decoder(x, document_ids, shared=condition)
        logits = self._logits(x)
        losses, statistics = supervise(self.segmenter, boundaries, batch, logits)
        return ModelOutput(
            logits,
            auxiliary_losses=losses,
            statistics=(*patches.statistics, *statistics),
            patch_starts=patches.boundaries,
            states=self.final_norm(x),
        )

    def _first(self, rows: int, dtype: jnp.dtype) -> jax.Array:
        first = self.first_word[...].astype(dtype)[None, None, :]
        return jnp.broadcast_to(first, (rows, 1, self.config.global_width))

    def _logits(self, x: jax.Array) -> jax.Array:
        return self.head(self.final_norm(x)).astype(jnp.float32)

    def init_state(self, batch_size: int, max_length: int) -> HAT2State:
        config, dtype = self.config, self.config.dtype
        heads, zeros = config.local_width // config.head_width, jnp.zeros((batch_size,), jnp.int32)
        return HAT2State(
            encoder=self.encoder.init_state(batch_size, max_length, dtype),
            carry=self.segmenter.init_carry(batch_size, max_length, dtype),
            word=OpenWord(
                values=jnp.zeros((batch_size, heads, config.head_width)),
                scores=jnp.full((batch_size, heads), LEAST_SCORE),
                length=zeros,
                condition=self._first(batch_size, dtype)[:, 0],
            ),
            words=zeros,
            backbone=self.backbone.init_state(batch_size, config.capacity(max_length), dtype),
            decoder=self.decoder.init_state(batch_size, max_length, dtype),
        )

    def extend(
        self, ids: jax.Array, state: HAT2State, lengths: jax.Array
    ) -> tuple[jax.Array, HAT2State]:
        new = ids.shape[1]
        offsets = jnp.arange(new)[None, :]
        valid = (offsets < lengths[:, None]).astype(jnp.int32)
        x = self.embedding(ids, self.config.dtype)
        x, encoder = self.encoder.extend(x, state.encoder, lengths)
        boundaries, carry = self.segmenter(x, ids, valid, state.carry)
        slots_left = state.backbone.positions.shape[1] - state.words
        patches = find_patches(boundaries.hard, valid, new, slots_left=slots_left)

        # Word 0 is the open one, whose bytes so far count as one member; then the new ones.
        groups = new + 1
        place = positions_in_run(patches.count)
        place = jnp.where(patches.count == 0, place + state.word.length[:, None], place)
        scores, values = self.pooling.members(x, place)
        values, scores = attention_pool(
            jnp.concatenate([state.word.scores[:, None], scores], axis=1),
            jnp.concatenate([state.word.values[:, None], values], axis=1),
            jnp.pad(jnp.where(valid == 1, patches.count, groups), ((0, 0), (1, 0))),
            groups,
        )
        # The backbone reads the words that are now complete: all but the last; before a row's
        # first word there is none that was open.
        begun = (state.words > 0).astype(jnp.int32)
        complete = jnp.maximum(patches.total - 1 + begun, 0)
        chosen = jnp.minimum(jnp.arange(new)[None, :] + 1 - begun[:, None], new)
        y = self.pooling.words(_take(values, chosen), x.dtype)
        y, backbone = extend_backbone(self.backbone, y, state.backbone, complete)
        y = self.backbone_norm(y)

        vectors = jnp.concatenate([state.word.condition[:, None], y], axis=1)
        index = jnp.maximum(patches.count - 1 + begun[:, None], 0)
        x, decoder = self.decoder.extend(
            x, state.decoder, lengths, shared=Condition(vectors, index)
        )
        last = patches.total[:, None]
        read = jnp.where(last == 0, state.word.length[:, None], 0)
        read += ((patches.count == last) & (valid == 1)).sum(axis=1, keepdims=True)
        return self._logits(x), HAT2State(
            encoder=encoder,
            carry=carry,
            word=OpenWord(
                values=_take(values, last)[:, 0],
                scores=_take(scores, last)[:, 0],
                length=read[:, 0],
                condition=_take(vectors, complete[:, None])[:, 0],
            ),
            words=state.words + patches.total,
            backbone=backbone,
            decoder=decoder,
        )

    def for_decoding(self) -> "HAT2":
        for stack in (self.encoder, self.backbone, self.decoder):
            stack.unstack()
        return self


def _take(values: jax.Array, index: jax.Array) -> jax.Array:
    """`values[b, index[b, i]]`: `[B, N, ...]` and int `[B, M]` to `[B, M, ...]`."""
    return jax.vmap(lambda row, i: row[i])(values, index)
