"""Nested splits at words and groups of words, as AU-Net makes them (arXiv 2506.14761).

Each byte has a level: 0 where nothing splits, and l where the levels 1 to l do. Splits of a higher
level are splits of all lower ones, so patches nest. Levels lie on the last byte of a character.

- A whitespace character right after a word completes it. Level l splits there if the words
  completed, counted from the last run of two or more whitespace characters, are a multiple of
  `groups[l - 1]`: with (1, 2, 4), after every word, every second, every fourth.
- All levels split at the first, fourth, seventh ... character of a run of numbers, and of a run of
  characters that are no letter, number or whitespace, such as punctuation; at CR or LF that follows
  a letter or a number; and at START.

The paper has "every 2 words or sentence end", its code splits at all punctuation, digits and line
breaks. This is the code's rule; the end of a sentence is one of its cases.

The code finds splits with regular expressions over whole documents, which see the future: where
whitespace holds a line break, its first character becomes a split of all levels, though it is one
only if the line break follows. Here a byte's level is that of the text which ends with it, as in
the code's own generation. `published=True` gives the levels of the code's training, for whole rows:
they tell a model that a line break will come. Level 1 splits there in any case, unless the
whitespace begins a document, or follows punctuation and its line breaks.

Text that is no UTF-8: a byte that can begin or continue no character counts as punctuation; one
that could has level 0, and if its character breaks off it counts as a letter from then on.

Shapes: B = rows, T = symbols.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START
from bytelm.patching.characters import (
    EDGE,
    LETTER,
    LINE,
    NUMBER,
    OTHER,
    PART,
    SPACE,
    read_characters,
)
from bytelm.patching.rules import LOOKBACK, NONE
from bytelm.patching.segmenter import Boundaries, Needs, Segmenter, SegmenterConfig

RUN = 3
"""Numbers, or other characters, from one split to the next."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WordCarry:
    """What the levels of the next symbols depend on.

    Attributes:
        recent: int32 `[B, LOOKBACK]`, the last symbols, the newest last; NONE before the first.
        run: int32 `[B]`, characters in the run of numbers or others that was read last.
        words: int32 `[B]`, words completed since the last run of whitespace characters.
    """

    recent: jax.Array
    run: jax.Array
    words: jax.Array

    @classmethod
    def empty(cls, rows: int) -> "WordCarry":
        """The carry before the first symbol."""
        zeros = jnp.zeros((rows,), jnp.int32)
        return cls(jnp.full((rows, LOOKBACK), NONE, jnp.int32), zeros, zeros)


# Compiled as a whole even outside of other programs: data tools call it for texts of many lengths.
@partial(jax.jit, static_argnames=("groups", "published"))
def split_levels(
    ids: jax.Array,
    document_ids: jax.Array,
    groups: tuple[int, ...],
    carry: WordCarry | None = None,
    *,
    published: bool = False,
) -> tuple[jax.Array, WordCarry]:
    """The level of each symbol in rows, or in the next symbols of rows, int32 `[B, T]`.

    A document's first symbol has the highest level, `len(groups)`.

    Args:
        ids: int32 `[B, T]`.
        document_ids: int32 `[B, T]`, as in a batch; symbols after padding (0) are ignored.
        groups: words in a patch of each level, each a multiple of the one before.
        carry: from the last call, for symbols before that are all of one document; None at the
            start of a row.
        published: the levels that the published code trains with, for whole rows.

    Returns:
        the levels, and the carry after the last symbol of each row's first document.
    """
    carry = WordCarry.empty(len(ids)) if carry is None else carry
    first = jnp.diff(document_ids, axis=1, prepend=document_ids[:, :1]) != 0  # [B, T]
    extended = jnp.concatenate([carry.recent, ids], axis=1)  # [B, LOOKBACK + T]
    kinds, previous, begins = _kinds(extended, first)  # [B, T]
    counted = (kinds == NUMBER) | (kinds == OTHER)
    blank, after_blank = _is_blank(kinds), _is_blank(previous)
    completes = blank & ~after_blank & (previous != EDGE)

    run = _count(counted, counted & (kinds != previous), carry.run)
    words = _count(completes, begins | (kinds == EDGE) | (blank & after_blank), carry.words)
    splits = begins | (ids == START) | (counted & (run % RUN == 1))
    if published:
        splits |= _opens_lines(kinds, begins)
    else:
        splits |= (kinds == LINE) & ~after_blank & (previous != OTHER)
    level = sum((words % size == 0).astype(jnp.int32) for size in groups)
    levels = jnp.where(splits, len(groups), jnp.where(completes, level, 0))

    one = document_ids == document_ids[:, :1]
    read = jnp.cumprod(one, axis=1).sum(axis=1) * (document_ids[:, 0] > 0)  # [B]
    recent = read[:, None] + jnp.arange(LOOKBACK)[None, :]
    after = WordCarry(
        jnp.take_along_axis(extended, recent, axis=1),
        _last(carry.run, run, read),
        _last(carry.words, words, read),
    )
    return jnp.where(document_ids > 0, levels, 0), after


def _kinds(extended: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The kind of each symbol and of the character before its own, and where documents begin.

    From the symbols after those of the carry, and where other documents begin among them.
    """
    first = jnp.pad(first, ((0, 0), (LOOKBACK, 0)))
    index = jnp.arange(first.shape[1])[None, :]
    age = index - jax.lax.cummax(jnp.where(first, index, 0), axis=1)

    def back(values: jax.Array, count: int, missing: int) -> jax.Array:
        shifted = jnp.pad(values, ((0, 0), (count, 0)))[:, : values.shape[1]]
        return jnp.where(age >= count, shifted, missing)

    kinds, sizes = read_characters([back(extended, count, NONE) for count in range(4)])
    before = [back(kinds, count, EDGE) for count in range(1, 5)]
    previous = jnp.select([sizes == count for count in range(1, 5)], before)
    # What ended no character before another one began is a character that broke off.
    previous = jnp.where(previous == PART, LETTER, previous)
    begins = back(extended, 1, NONE) == NONE
    return kinds[:, LOOKBACK:], previous[:, LOOKBACK:], begins[:, LOOKBACK:]


def _opens_lines(kinds: jax.Array, begins: jax.Array) -> jax.Array:
    r"""The whitespace with which a match of `\s*[\r\n]` starts, given all that follows."""
    index = jnp.arange(kinds.shape[1])[None, :]
    blank, line = _is_blank(kinds), kinds == LINE
    ends_run = begins | ((kinds != PART) & ~blank)
    # Line breaks right after punctuation belong to its match.
    not_line = jax.lax.cummax(jnp.where(begins | ((kinds != PART) & ~line), index, 0), axis=1)
    taken = line & (jnp.take_along_axis(kinds, not_line, axis=1) == OTHER)
    free = blank & ~taken
    none = jnp.zeros((len(kinds),), jnp.int32)
    is_first = free & (_count(free, ends_run, none) == 1)

    def following(flags: jax.Array) -> jax.Array:
        return jax.lax.cummin(jnp.where(flags, index, index.size), axis=1, reverse=True)

    later_end = jnp.pad(following(ends_run)[:, 1:], ((0, 0), (0, 1)), constant_values=index.size)
    return is_first & (following(line) < later_end)


def _is_blank(kinds: jax.Array) -> jax.Array:
    return (kinds == SPACE) | (kinds == LINE)


def _count(flags: jax.Array, restarts: jax.Array, before: jax.Array) -> jax.Array:
    """How many flags there are from the last restart on, int32 `[B, T]`.

    `before` `[B]` is the count at the start of the rows.
    """
    total = jnp.cumsum(flags, axis=1)
    return total - jax.lax.cummax(jnp.where(restarts, total - flags, -before[:, None]), axis=1)


def _last(before: jax.Array, values: jax.Array, read: jax.Array) -> jax.Array:
    """The value `[B]` at the last of the symbols that were read; `before` if there are none."""
    values = jnp.concatenate([before[:, None], values], axis=1)
    return jnp.take_along_axis(values, read[:, None], axis=1)[:, 0]


class WordLevels(Segmenter):
    """Patches that start at splits of level 1; `Boundaries.ids` has the levels.

    In a family in which boundaries end patches, they end with the split.
    """

    def __init__(self, config: "WordGroups", width: int, needs: Needs, **options: Any):
        self.config = config

    def __call__(
        self,
        states: jax.Array | None,
        ids: jax.Array,
        document_ids: jax.Array,
        carry: WordCarry | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[Boundaries, WordCarry]:
        groups, published = self.config.groups, self.config.published
        levels, carry = split_levels(ids, document_ids, groups, carry, published=published)
        return Boundaries.decided(levels > 0, ids=levels), carry

    def init_carry(self, rows: int, length: int, dtype: jnp.dtype) -> WordCarry:
        return WordCarry.empty(rows)


@dataclass(frozen=True)
class WordGroups(SegmenterConfig):
    """Patches of words, with the levels at which groups of words start (AU-Net)."""

    kind: ClassVar[str] = "word_groups"
    module: ClassVar[type[Any]] = WordLevels

    groups: tuple[int, ...] = (1, 2, 4)
    """Words in a patch of each level, the outermost first: each a multiple of the one before. A
    family uses as many as it has levels."""
    published: bool = False
    """Boundaries as in the published training, which see line breaks that follow. In generation
    they cannot, so that decoding and scoring differ."""

    def check_values(self, where: str) -> None:
        groups = self.groups
        if not groups or min(groups) < 1:
            raise UserError(f"{where}.groups is {groups}; give each level at least 1 word.")
        for inner, outer in zip(groups[1:], groups, strict=False):
            if inner % outer:
                raise UserError(
                    f"the levels of {where}.groups {groups} do not nest: {inner} is no multiple of "
                    f"{outer}."
                )

    @property
    def default_bytes_per_slot(self) -> float:
        return 4.0

    @property
    def knows_ends(self) -> bool:
        return False


class AtLeast(Segmenter):
    """Patches of an inner level: they start where the ids, which are levels, reach `level`."""

    def __init__(self, level: int):
        self.level = level

    def __call__(
        self,
        states: jax.Array | None,
        ids: jax.Array,
        document_ids: jax.Array,
        carry: Any = None,
        keys: jax.Array | None = None,
    ) -> tuple[Boundaries, tuple[()]]:
        return Boundaries.decided((ids >= self.level) & (document_ids > 0)), ()

    def init_carry(self, rows: int, length: int, dtype: jnp.dtype) -> tuple[()]:
        return ()
