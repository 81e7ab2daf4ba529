"""HAT, first version: spell a word, say that it ends, predict the next (arXiv 2501.10322).

Hierarchical autoregressive Transformer over words (Neitemeier et al., ICLR 2025). Text is split
at whitespace, which goes to the word before. For every word, `[W]` and the word's bytes pass an
encoder that sees the whole word and nothing else; what it makes of `[W]` is the word's vector. A
causal backbone runs over the words. Its output at a word becomes the first position of a causal
decoder that spells the next word: it sees that vector and the word's bytes so far. After a word's
last byte the decoder says `[W]`, the word's end.

A word's end is known from its bytes, but the decoder has to say it all the same, so it costs bits,
as published: logits are the distribution over bytes and END given whether the word ends here, and
`segmentation_nats` is what saying that costs. Their sum is minus the log of the published product.

Bytes and marks lie in one flat stream of T + P positions, the mark of each word behind its last
byte; "inside one word" is an equal group id. The encoder reads `[W]` from there with the rotary
position before the word's first byte.

Decided here: the first whitespace character of a run ends a word and the others lead the next one,
so that an end never waits for the next byte (between words that one space parts, this is the
published rule); UAX-29 words, the paper's variant, are known only with the next byte and belong to
the second version (`hat2.py`). START is a word.
END may follow any byte: no `[W]` is said before it unless whitespace came last. Words longer than
`longest_patch` bytes are split. When a row has no room for another word, the last one goes on, its
decoder seeing `longest_word` + 1 positions back.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE, PAD
from bytelm.models.contract import Batch, LanguageModel, ModelOutput
from bytelm.models.hierarchy import HierarchyConfig, extend_backbone
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.norms import NORMS
from bytelm.nn.partitioning import shard_rows
from bytelm.nn.stack import StackState
from bytelm.patching.patches import Patches, find_patches, positions_in_run, spread_first
from bytelm.patching.rules import RuleCarry
from bytelm.patching.segmenter import Needs, RulePatches, SegmenterConfig

WORD_END = OUTPUT_SIZE
"""The decoder's output for `[W]`."""


@dataclass(frozen=True)
class HATConfig(HierarchyConfig):
    """Hierarchical autoregressive Transformer, first version."""

    family: ClassVar[str] = "hat"
    needs: ClassVar[Needs] = Needs("end", known_ends=True, longest=True)

    local_width: int = 256
    """Channels of the encoder and the decoder."""
    encoder_depth: int = 3
    """Blocks of the encoder."""
    decoder_depth: int = 3
    """Blocks of the decoder."""
    global_width: int = 512
    """Channels of the backbone."""
    global_depth: int = 6
    """Blocks of the backbone."""
    segmenter: SegmenterConfig = field(default=RulePatches("whitespace_run", longest_patch=32))
    """Where words end, such as with the first whitespace character of a run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("encoder_depth", "decoder_depth", "global_depth")
        self.require_heads("local_width", "global_width")

    @property
    def longest_word(self) -> int:
        """Most bytes in a word."""
        assert self.segmenter.longest is not None
        return self.segmenter.longest

    def encoder_block(self) -> BlockConfig:
        mask = AttentionMask(causal=False, window=self.longest_word + 1)
        return self.block(self.local_width, self.encoder_depth, mask)

    def decoder_block(self) -> BlockConfig:
        mask = AttentionMask(window=self.longest_word + 1)
        return self.block(self.local_width, self.decoder_depth, mask)

    def global_block(self) -> BlockConfig:
        return self.block(self.global_width, self.global_depth, AttentionMask())

    def build(self, rngs: nnx.Rngs) -> "HAT":
        return HAT(self, rngs=rngs)

    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        patches = self.capacity(sequence_length) if patches is None else patches
        stream = sequence_length + patches
        word = stream / max(patches, 1.0)  # a word of the mean length, its mark included
        encoder, decoder = self.encoder_block(), self.decoder_block()
        local = 0.0
        for block, pairs in ((encoder, word * word), (decoder, word * (word + 1) / 2)):
            inner = block.heads * block.head_width
            alone = block.forward_flops(1) - block.depth * 4.0 * inner
            local += stream * alone + block.depth * 4.0 * patches * pairs * inner
        d, width = self.local_width, self.global_width
        projections = 2.0 * patches * 2 * d * width
        head = 2.0 * stream * d * (OUTPUT_SIZE + 1)
        return local + self.global_block().forward_flops(patches) + projections + head


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HATState:
    """Decoding state.

    Attributes:
        spelled: int32 `[B, longest_word]`, the bytes of the open word, the newest last.
        length: int32 `[B]`, how many of them there are.
        segment: int32 `[B]`, number of the open word.
        carry, backbone, decoder: of the segmenter and the two causal stacks.
    """

    spelled: jax.Array
    length: jax.Array
    segment: jax.Array
    carry: RuleCarry
    backbone: StackState
    decoder: StackState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stream:
    """Where T bytes and the marks of P words lie in one sequence of T + P positions.

    Attributes:
        source: int32 `[B, T + P]`, what lies at each position: a byte (0 to T - 1) or a mark
            (T to T + P - 1). The marks that there are not lie behind everything.
        place: int32 `[B, T + P]`, the inverse: where each byte, then each mark, lies.
    """

    source: jax.Array
    place: jax.Array

    @classmethod
    def of(cls, words: Patches) -> "Stream":
        """The stream in which a mark follows each symbol of `words.boundaries`."""
        length = words.boundaries.shape[1]
        marks = jnp.arange(words.positions.shape[1])[None, :]
        before = words.count - words.boundaries
        of_bytes = jnp.arange(length)[None, :] + before
        of_marks = marks + jnp.where(words.valid, words.positions + 1, length)
        place = jnp.concatenate([of_bytes, of_marks], axis=1)
        index = jnp.arange(place.shape[1])
        source = jax.vmap(lambda row: jnp.zeros_like(index).at[row].set(index))(place)
        return cls(source, place)

    def join(self, of_bytes: jax.Array, of_marks: jax.Array) -> jax.Array:
        """`[B, T, ...]` and `[B, P, ...]` to the stream's order."""
        joined = jnp.concatenate([of_bytes, of_marks], axis=1)
        return _reorder(joined, self.source, self.place)

    def part(self, x: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
        """The inverse of `join`, for T = `length`."""
        x = _reorder(x, self.place, self.source)
        return x[:, :length], x[:, length:]


@jax.custom_vjp
def _reorder(x: jax.Array, index: jax.Array, inverse: jax.Array) -> jax.Array:
    """`x[b, index[b, i]]` for a permutation and its inverse, so that the gradient is a gather."""
    return jax.vmap(lambda row, i: row[i])(x, index)


_reorder.defvjp(
    lambda x, index, inverse: (_reorder(x, index, inverse), (index, inverse)),
    lambda indices, gradient: (_reorder(gradient, *reversed(indices)), None, None),
)


class HAT(LanguageModel):
    """The model that a `HATConfig` builds."""

    def __init__(self, config: HATConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, width = config.local_width, config.global_width
        self.segmenter = config.segmenter.build(d, config.needs, norm=None, relu=False, rngs=rngs)
        self.encoder_embedding = Embedding(INPUT_SIZE, d, rngs=rngs)
        self.word_mark = nnx.Param(jax.random.normal(rngs.params(), (d,)), role="vector")
        self.encoder = config.stack(config.encoder_block(), rngs)
        self.encoder_norm = NORMS[config.norm](d)
        self.to_backbone = Dense(d, width, rngs=rngs, role="projection")
        self.backbone = config.stack(config.global_block(), rngs)
        self.backbone_norm = NORMS[config.norm](width)
        self.to_decoder = Dense(width, d, rngs=rngs, role="projection")
        self.decoder_embedding = Embedding(INPUT_SIZE, d, rngs=rngs)
        self.decoder = config.stack(config.decoder_block(), rngs)
        self.final_norm = NORMS[config.norm](d)
        gain = 0.0 if config.scaled_init else 1.0
        self.head = Dense(d, OUTPUT_SIZE + 1, rngs=rngs, gain=gain, role="head")

    def __call__(self, batch: Batch) -> ModelOutput:
        ids, document_ids = batch.ids, batch.document_ids
        length = ids.shape[1]
        boundaries, _ = self.segmenter(None, ids, document_ids)
        words = find_patches(boundaries.hard, document_ids, self.config.capacity(length))
        stream, numbers = Stream.of(words), _word_numbers(words, document_ids)
        y = self._encode(ids, words, stream, numbers)
        y = self.to_decoder(self.backbone_norm(self.backbone(y, words.document_ids)))

        x = self.decoder_embedding(ids, self.config.dtype)
        x = self.decoder(shard_rows(stream.join(x, y)), _decoder_segments(words, stream, numbers))
        of_bytes, of_marks = stream.part(x, length)
        logits, segmentation_nats = self._logits(of_bytes, of_marks, words)
        return ModelOutput(
            logits,
            segmentation_nats,
            statistics=words.statistics,
            patch_starts=words.boundaries,
            states=self.final_norm(of_bytes),
        )

    def _encode(
        self, ids: jax.Array, words: Patches, stream: Stream, numbers: jax.Array
    ) -> jax.Array:
        """The vector of each word that ends, `[B, P, global_width]`."""
        x = self.encoder_embedding(ids, self.config.dtype)
        mark = self.word_mark[...].astype(x.dtype)[None, None, :]
        marks = jnp.broadcast_to(mark, (*words.positions.shape, x.shape[-1]))
        own = jnp.where(words.valid, jnp.take_along_axis(numbers, words.positions, axis=1), 0)
        # [W] stands before the word: position 0, and the bytes from 1 on.
        positions = stream.join(1 + positions_in_run(numbers), jnp.zeros_like(words.positions))
        segments = stream.join(numbers, own)
        x = self.encoder(shard_rows(stream.join(x, marks)), segments, positions=positions)
        _, x = stream.part(x, ids.shape[1])
        return self.to_backbone(self.encoder_norm(x))

    def _logits(
        self, of_bytes: jax.Array, of_marks: jax.Array, words: Patches
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of the next byte `[B, T, OUTPUT_SIZE]`, and nats of the end of words `[B, T]`."""
        of_bytes = self.head(self.final_norm(of_bytes)).astype(jnp.float32)
        of_marks = self.head(self.final_norm(of_marks)).astype(jnp.float32)
        spelling, end = of_bytes[:, :, :WORD_END], of_bytes[:, :, WORD_END]
        end -= jax.nn.logsumexp(spelling, axis=-1)
        next_word = spread_first(of_marks[:, :, :WORD_END], words)
        logits = jnp.where(words.boundaries[:, :, None], next_word, spelling)
        return logits, jax.nn.softplus(jnp.where(words.boundaries, -end, end))

    def init_state(self, batch_size: int, max_length: int) -> HATState:
        config, zeros = self.config, jnp.zeros((batch_size,), jnp.int32)
        capacity = config.capacity(max_length)
        return HATState(
            spelled=jnp.full((batch_size, config.longest_word), PAD, jnp.int32),
            length=zeros,
            segment=zeros + 1,
            carry=self.segmenter.init_carry(batch_size, max_length, config.dtype),
            backbone=self.backbone.init_state(batch_size, capacity, config.dtype),
            decoder=self.decoder.init_state(batch_size, max_length + capacity, config.dtype),
        )

    def extend(
        self, ids: jax.Array, state: HATState, lengths: jax.Array
    ) -> tuple[jax.Array, HATState]:
        new, longest = ids.shape[1], self.config.longest_word
        valid = jnp.arange(new)[None, :] < lengths[:, None]
        document_ids = valid.astype(jnp.int32)
        boundaries, carry = self.segmenter(None, ids, document_ids, state.carry)
        slots_left = state.backbone.positions.shape[1] - state.backbone.length
        words = find_patches(boundaries.hard, document_ids, new, slots_left=slots_left)
        y, backbone = self._next_words(ids, state, words, valid)

        stream = Stream.of(words)
        numbers = state.segment[:, None] + words.count - words.boundaries
        x = self.decoder_embedding(ids, self.config.dtype)
        x, decoder = self.decoder.extend(
            stream.join(x, y),
            state.decoder,
            lengths + words.total,
            group_ids=_decoder_segments(words, stream, numbers),
        )
        logits, _ = self._logits(*stream.part(x, new), words)

        # The open word's bytes are those after the last end.
        index = lengths[:, None] + jnp.arange(longest)[None, :]
        spelled = jnp.take_along_axis(jnp.concatenate([state.spelled, ids], axis=1), index, axis=1)
        last_end = jnp.take_along_axis(
            words.positions, jnp.maximum(words.total - 1, 0)[:, None], axis=1
        )
        since = lengths - last_end[:, 0] - 1
        length = jnp.where(words.total > 0, since, state.length + lengths)
        return logits, HATState(
            spelled=spelled,
            length=jnp.minimum(length, longest),
            segment=state.segment + words.total,
            carry=carry,
            backbone=backbone,
            decoder=decoder,
        )

    def _next_words(
        self, ids: jax.Array, state: HATState, words: Patches, valid: jax.Array
    ) -> tuple[jax.Array, StackState]:
        """What the decoder starts each next word with, for the words that end: `[B, N, d]`."""
        longest = self.config.longest_word
        before = jnp.arange(longest)[None, :] >= longest - state.length[:, None]
        segments = jnp.concatenate([before, valid], axis=1).astype(jnp.int32)

        def widened(flags: jax.Array) -> jax.Array:
            return jnp.pad(flags, ((0, 0), (longest, 0)))

        def run() -> tuple[jax.Array, StackState]:
            spelled = jnp.concatenate([state.spelled, ids], axis=1)
            ended = find_patches(widened(words.boundaries), segments, words.positions.shape[1])
            numbers = _word_numbers(ended, segments)
            y = self._encode(spelled, ended, Stream.of(ended), numbers)
            y, backbone = extend_backbone(self.backbone, y, state.backbone, words.total)
            return self.to_decoder(self.backbone_norm(y)), backbone

        def nothing() -> tuple[jax.Array, StackState]:
            shape = (*words.positions.shape, self.config.local_width)
            return jnp.zeros(shape, self.config.dtype), state.backbone

        return jax.lax.cond(words.boundaries.any(), run, nothing)

    def for_decoding(self) -> "HAT":
        for stack in (self.encoder, self.backbone, self.decoder):
            stack.unstack()
        return self


def _word_numbers(words: Patches, document_ids: jax.Array) -> jax.Array:
    """The number of each symbol's word among all of the row's, from 1; 0 in padding: `[B, T]`."""
    documents = jnp.cumsum(jnp.diff(document_ids, axis=1, prepend=0) != 0, axis=1)
    ended = words.count - words.boundaries
    return jnp.where(document_ids > 0, ended + documents, 0)


def _decoder_segments(words: Patches, stream: Stream, numbers: jax.Array) -> jax.Array:
    """The word that each position of the stream spells, 0 for none: `[B, T + P]`."""
    following = jnp.take_along_axis(numbers, words.positions, axis=1) + 1
    return stream.join(numbers, jnp.where(words.valid, following, 0))
