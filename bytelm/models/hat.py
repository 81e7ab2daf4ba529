"""HAT, first version: spell a word, predict its end, predict the next word (arXiv 2501.10322).

Hierarchical autoregressive Transformer over words (Neitemeier et al., ICLR 2025). Text is split at
whitespace, which belongs to the word before it. For every word, an encoder reads `[W]` and the
word's bytes, and sees nothing else; its output at `[W]` is the word's vector. A causal backbone
runs over the words. Its output at a word becomes the first position of a causal decoder that spells
the next word, and sees that vector and the word's bytes so far. After a word's last byte the
decoder predicts `[W]`, the word's end.

A word's end is known from its bytes, but the decoder must still predict it, so it costs bits, as
published. The logits are the distribution over bytes and END, given whether the word ends here;
`segmentation_nats` is the cost of predicting whether it does. Their sum is minus the logarithm of
the published product.

Bytes and marks (`[W]`) form one flat stream of T + P positions. Each word's mark comes after its
last byte, and positions of the same word have the same group id. In the encoder the mark has the
rotary position before the word's first byte.

Decided here: the first whitespace character of a run ends a word and the others begin the next one,
so that an end is known without the next byte. With single spaces between words this is the
published rule. UAX-29 words, the paper's variant, need the next byte and belong to the second
version (`hat2.py`). START is a word. END may follow any byte; `[W]` comes before it only if the
last byte was whitespace. Words longer than `longest_patch` bytes are split. When all slots of a row
are filled, the last word goes on; its decoder sees `longest_word` + 1 positions. In decoding there
may be slots again later; the encoder then reads the word's last `longest_word` bytes.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.vocabulary import INPUT_SIZE, OUTPUT_SIZE, PAD
from bytelm.models.contract import Batch, ModelOutput
from bytelm.models.hierarchy import HierarchicalModel, TwoWidthsConfig
from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig
from bytelm.nn.linear import Dense, Embedding
from bytelm.nn.mesh import shard_rows, whole_rows
from bytelm.nn.norms import NORMS
from bytelm.nn.sequence import take_joined
from bytelm.nn.stack_state import StackState
from bytelm.patching.levels import LevelState, Result, Segmentation, Symbols, run, run_if_any, take
from bytelm.patching.marks import find_marks
from bytelm.patching.patches import (
    Patches,
    find_patches,
    overflow_ratio,
    positions_in_run,
    spread_first,
)
from bytelm.patching.segmenter import Needs, RulePatches, SegmenterConfig

WORD_END = OUTPUT_SIZE
"""The decoder's output for `[W]`."""


@dataclass(frozen=True)
class HATConfig(TwoWidthsConfig):
    """Hierarchical autoregressive Transformer, first version."""

    family: ClassVar[str] = "hat"
    needs: ClassVar[Needs] = Needs("end", known_ends=True, longest=True)

    encoder_depth: int = 3
    """Blocks of the encoder."""
    decoder_depth: int = 3
    """Blocks of the decoder."""
    segmenter: SegmenterConfig = field(default=RulePatches("whitespace_run", longest_patch=32))
    """Where words end, such as with the first whitespace character of a run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("encoder_depth", "decoder_depth")

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

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.local_width, OUTPUT_SIZE + 1

    def build(self, rngs: nnx.Rngs) -> "HAT":
        return HAT(self, rngs=rngs)

    def local_flops(self, length: int, patches: float) -> float:
        stream = length + patches
        word = stream / max(patches, 1.0)  # a word of the mean length, its mark included
        encoder, decoder = self.encoder_block(), self.decoder_block()
        local = self.segmenter.forward_flops(self.local_width, length)
        for block, pairs in ((encoder, word * word), (decoder, word * (word + 1) / 2)):
            inner = block.heads * block.head_width
            alone = block.forward_flops(1) - block.depth * 4.0 * inner
            local += stream * alone + block.depth * 4.0 * patches * pairs * inner
        projections = 2 * patches * self.local_width * self.global_width
        head = stream * self.local_width * (OUTPUT_SIZE + 1)
        return local + 2.0 * (projections + head)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OpenWord:
    """The bytes of the unfinished word."""

    spelled: jax.Array  # int32 [B, longest_word], the last bytes read, the newest last
    length: jax.Array  # int32 [B], how many of them are of the word


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stream:
    """One order of T bytes and the marks of P words: T + P positions."""

    source: jax.Array
    """Int32 `[B, T + P]`, the byte (0 to T - 1) or mark (T to T + P - 1) at each position, unused
    marks last."""
    place: jax.Array  # int32 [B, T + P], the inverse: the position of each byte, then of each mark
    length: int = field(metadata={"static": True})  # T

    @classmethod
    def of(cls, words: Patches) -> "Stream":
        """The stream in which a mark follows each symbol of `words.boundaries`."""
        length = words.boundaries.shape[1]
        marks = jnp.arange(words.positions.shape[1])[None, :]
        before = words.count - words.boundaries  # [B, T]
        of_bytes = jnp.arange(length)[None, :] + before  # [B, T]
        of_marks = marks + jnp.where(words.valid, words.positions + 1, length)  # [B, P]
        place = jnp.concatenate([of_bytes, of_marks], axis=1)
        index = jnp.arange(place.shape[1])
        source = jax.vmap(lambda row: jnp.zeros_like(index).at[row].set(index))(place)
        return cls(whole_rows(source), whole_rows(place), length)

    def join(self, of_bytes: jax.Array, of_marks: jax.Array) -> jax.Array:
        """`[B, T, ...]` and `[B, P, ...]` to the stream's order."""
        return _join((of_bytes, of_marks), self)

    def part(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The inverse of `join`."""
        return _part(x, self)


@jax.custom_vjp
def _join(parts: tuple[jax.Array, jax.Array], stream: Stream) -> jax.Array:
    return take_joined(parts, stream.source)


@jax.custom_vjp
def _part(x: jax.Array, stream: Stream) -> tuple[jax.Array, jax.Array]:
    of_bytes, of_marks = jnp.split(stream.place, [stream.length], axis=1)
    return take(x, of_bytes), take(x, of_marks)


# Each is the other's transpose: gradients are gathers too.
_join.defvjp(
    lambda parts, stream: (_join(parts, stream), stream),
    lambda stream, gradient: (_part(gradient, stream), None),
)
_part.defvjp(
    lambda x, stream: (_part(x, stream), stream),
    lambda stream, gradients: (_join(gradients, stream), None),
)


class Spelling(NamedTuple):
    """The decoder's output after the bytes `[B, T, d]` and after the marks of words `[B, P, d]`."""

    of_bytes: jax.Array
    of_marks: jax.Array
    words: Patches


class HAT(HierarchicalModel):
    """The model that a `HATConfig` builds."""

    config: HATConfig

    def __init__(self, config: HATConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, width = config.local_width, config.global_width
        self.segmenter = config.build_segmenter(d, rngs)
        self.encoder_embedding = Embedding(INPUT_SIZE, d, rngs=rngs)
        self.word_mark = nnx.Param(jax.random.normal(rngs.params(), (d,)), role="vector")
        self.encoder = config.stack(config.encoder_block(), rngs)
        self.encoder_norm = NORMS[config.norm](d)
        self.to_backbone = Dense(d, width, rngs=rngs, role="projection")
        self.backbone = config.stack(config.global_block(), rngs)
        self.backbone_norm = NORMS[config.norm](width)
        self.to_decoder = Dense(width, d, rngs=rngs, role="projection")
        self.decoder_embedding = config.build_embedding(INPUT_SIZE, d, rngs)
        self.decoder = config.stack(config.decoder_block(), rngs)
        self.final_norm, self.head = config.build_head(d, rngs, outputs=OUTPUT_SIZE + 1)
        self.build_draft(config, rngs)

    def forward(self, symbols: Symbols, state: LevelState | None = None) -> Result:
        before = state or LevelState()
        cut, patching = self.segment(None, symbols, before.patching)
        words = cut.patches
        y, backbone = self._next_words(cut, before)  # [B, P, d]

        stream, numbers = Stream.of(words), _word_numbers(words, symbols.document_ids)
        if state is not None:
            numbers = state.patching.opened[:, None] + numbers
        x = self.decoder_embedding.read(symbols, self.config.dtype)
        x = shard_rows(stream.join(x, y))  # [B, T + P, d]
        following = jnp.where(words.valid, take(numbers, words.positions) + 1, 0)  # [B, P]
        groups = stream.join(numbers, following)  # the word that each position spells
        lengths = None if state is None else symbols.lengths + words.total
        marked = replace(symbols, lengths=lengths)
        x, decoder = run(self.decoder, x, marked, before.decoder, group_ids=groups)
        spelling = Spelling(*stream.part(x), words)
        if state is None:
            return spelling, None, (cut,)
        word = self._unfinished(symbols, words, before.open)
        return spelling, LevelState(None, patching, backbone, word, decoder), ()

    def _next_words(
        self, cut: Segmentation, before: LevelState
    ) -> tuple[jax.Array, StackState | None]:
        """For each word that ends, the decoder's first position of the next word, `[B, P, d]`."""
        words = cut.patches

        def encoded() -> tuple[jax.Array, StackState | None]:
            ids, document_ids, ended = cut.symbols.ids, cut.symbols.document_ids, words
            if before.open is not None:
                ids, document_ids, ended = self._with_unfinished(cut, before.open)
            numbers = _word_numbers(ended, document_ids)
            if before.open is not None:
                numbers = self._of_kept(numbers, ended)
            y = self._encode(ids, ended, numbers)
            y, backbone = run(self.backbone, y, cut.inner_symbols, before.inner)
            return self.to_decoder(self.backbone_norm(y)), backbone

        zeros = jnp.zeros((*words.positions.shape, self.config.local_width), self.config.dtype)
        return run_if_any(cut.inner_symbols, encoded, zeros, before.inner)

    def _with_unfinished(
        self, cut: Segmentation, word: OpenWord
    ) -> tuple[jax.Array, jax.Array, Patches]:
        """Ids, document ids and words of the symbols, with the unfinished word's bytes first."""
        longest, words = self.config.longest_word, cut.patches
        present = jnp.arange(longest)[None, :] >= longest - word.length[:, None]
        ids = jnp.concatenate([word.spelled, cut.symbols.ids], axis=1)  # [B, longest + N]
        before = present.astype(jnp.int32)
        document_ids = jnp.concatenate([before, cut.symbols.document_ids], axis=1)
        ends = jnp.pad(words.boundaries, ((0, 0), (longest, 0)))
        return ids, document_ids, find_patches(ends, document_ids, words.positions.shape[1])

    def _of_kept(self, numbers: jax.Array, words: Patches) -> jax.Array:
        """The numbers of words, 0 for bytes that a word had before its last `longest_word`.

        A word that went on where slots were used up is longer, and its first bytes are forgotten.
        """
        index = jnp.arange(numbers.shape[1])[None, :]
        end = take(
            words.positions,
            jnp.minimum(words.count - words.boundaries, words.positions.shape[1] - 1),
        )
        return jnp.where(index > end - self.config.longest_word, numbers, 0)

    def _encode(self, ids: jax.Array, words: Patches, numbers: jax.Array) -> jax.Array:
        """The vector of each word that ends, `[B, P, global_width]`."""
        stream = Stream.of(words)
        x = self.encoder_embedding(ids, self.config.dtype)
        mark = self.word_mark[...].astype(x.dtype)[None, None, :]
        marks = jnp.broadcast_to(mark, (*words.positions.shape, x.shape[-1]))  # [B, P, d]
        own = jnp.where(words.valid, take(numbers, words.positions), 0)  # [B, P]
        # [W] stands before the word: position 0, and the bytes from 1 on.
        positions = stream.join(1 + positions_in_run(numbers), jnp.zeros_like(words.positions))
        groups = stream.join(numbers, own)  # [B, T + P]
        x = self.encoder(shard_rows(stream.join(x, marks)), groups, positions=positions)
        _, x = stream.part(x)
        return self.to_backbone(self.encoder_norm(x))

    def _unfinished(self, symbols: Symbols, words: Patches, before: OpenWord) -> OpenWord:
        """The bytes after the last end."""
        longest, lengths, total = self.config.longest_word, symbols.lengths, words.total
        index = lengths[:, None] + jnp.arange(longest)[None, :]  # [B, longest]
        spelled = take(jnp.concatenate([before.spelled, symbols.ids], axis=1), index)
        last_end = take(words.positions, jnp.maximum(total - 1, 0)[:, None])[:, 0]  # [B]
        length = jnp.where(total > 0, lengths - last_end - 1, before.length + lengths)
        return OpenWord(spelled, jnp.minimum(length, longest))

    def __call__(self, batch: Batch) -> ModelOutput:
        symbols = Symbols.of_rows(batch.ids, batch.document_ids, entropies=batch.entropies)
        spelling, _, (cut,) = self.forward(symbols)
        logits, segmentation_nats = self._logits_and_ends(spelling)
        output = ModelOutput(
            logits,
            segmentation_nats,
            statistics=(overflow_ratio(cut.patches),),
            levels=find_marks((cut,), self.config.needs.mark),
            states=self.final_norm(spelling.of_bytes),
        )
        return self.with_draft(output, spelling, batch)

    def logits(self, x: Spelling) -> jax.Array:
        return self._logits_and_ends(x)[0]

    def predict(self, x: Spelling) -> ModelOutput:
        return ModelOutput(*self._logits_and_ends(x))

    def read_by_heads(self, x: Spelling) -> jax.Array:
        """What gives the next byte's logits; after a byte that ends a word, its mark's vector."""
        of_marks = spread_first(x.of_marks, x.words)  # [B, T, d]
        return jnp.where(x.words.boundaries[:, :, None], of_marks, x.of_bytes)

    def unembed(self, x: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        return super().unembed(x, kernel)[:, :, :WORD_END]

    def embed_symbols(self, ids: jax.Array) -> jax.Array:
        return self.decoder_embedding(ids, self.config.dtype)

    def _logits_and_ends(self, spelling: Spelling) -> tuple[jax.Array, jax.Array]:
        """Logits of the next byte `[B, T, OUTPUT_SIZE]`, and nats of the end of words `[B, T]`."""
        words = spelling.words
        of_bytes = super().unembed(spelling.of_bytes)  # [B, T, OUTPUT_SIZE + 1]
        of_marks = super().unembed(spelling.of_marks)  # [B, P, OUTPUT_SIZE + 1]
        spelled, end = of_bytes[:, :, :WORD_END], of_bytes[:, :, WORD_END]
        end -= jax.nn.logsumexp(spelled, axis=-1)
        next_word = spread_first(of_marks[:, :, :WORD_END], words)
        logits = jnp.where(words.boundaries[:, :, None], next_word, spelled)
        return logits, jax.nn.softplus(jnp.where(words.boundaries, -end, end))

    def init_parts(self, rows: int, length: int) -> LevelState:
        spelled = jnp.full((rows, self.config.longest_word), PAD, jnp.int32)
        word = OpenWord(spelled, jnp.zeros((rows,), jnp.int32))
        return self.init_level(rows, length, open=word, decoder=self.decoder, marks=True)


def _word_numbers(words: Patches, document_ids: jax.Array) -> jax.Array:
    """The number of each symbol's word in its row, from 1; 0 in padding: int32 `[B, T]`."""
    documents = jnp.cumsum(jnp.diff(document_ids, axis=1, prepend=0) != 0, axis=1)
    ended = words.count - words.boundaries
    return jnp.where(document_ids > 0, ended + documents, 0)
