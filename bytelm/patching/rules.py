"""Boundary rules: where patches start, as pure functions of the symbols.

A rule decides at a position from that symbol and the few before it, so that the boundaries of a
prefix are the prefix of the boundaries: text may be generated symbol by symbol, and a boundary is
never taken back. A rule has at most two parts: what the last symbols look like, and how far the
last start lies behind (`longest`).

- `spacelike`: SpaceByte's rule (arXiv 2404.14408, appendix C; "utf8" in its code). A patch starts
  at a byte that is neither ASCII letter or digit nor a UTF-8 continuation byte, if the byte before
  it is not such a byte, and at START. Two-letter scripts fire at each character.
- `whitespace`: a patch ends with each Unicode whitespace character (property White_Space), whose
  bytes belong to it, and with START.
- `space`: a patch ends with each space byte, and with START (the "whitespaces" of dynamic token
  pooling, arXiv 2211.09761).
- `whitespace_run`: a patch ends with the first whitespace character of a run, and with START; the
  rest of the run leads the next patch, so that indentation is not one patch per space.
- `fixed`: a patch starts every `longest` symbols of a document.
- `words`: words after Unicode's UAX-29 with the refinements of HAT (arXiv 2603.15953): a word
  takes one leading space and the punctuation after it; it is split after punctuation and where a
  lower-case letter meets an upper-case one; runs of whitespace are merged. UAX-29 itself looks
  ahead, which no prefix can: here a run of several spaces is a patch of its own (the last of them
  would belong to the next word), and a character outside ASCII is classed by its first byte, that
  is by its block: CJK and kana, emoji and other symbols beyond the Basic Multilingual Plane start
  a word each; U+0080-00BF, U+2000-2FFF and U+F000-FFFF count as punctuation, all else as letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.core.vocabulary import START

RuleKind = Literal["spacelike", "whitespace", "space", "whitespace_run", "words", "fixed"]

LOOKBACK = 7
"""How many symbols before its own a rule looks at."""
NONE = -1
"""Stands for a symbol before the document's, or the row's, first."""


@dataclass(frozen=True)
class BoundaryRule:
    """Which rule, and the longest patch it allows.

    Attributes:
        kind: of the module's docstring.
        longest: most symbols in a patch, after which the next one starts; None for no limit. The
            stride of "fixed".
    """

    kind: RuleKind
    longest: int | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RuleState:
    """What a rule remembers of the symbols already read.

    Attributes:
        recent: int32 `[B, LOOKBACK]`, the last symbols, the newest last; NONE before the first.
        since: int32 `[B]`, symbols since the last start that `longest` did not cause.
    """

    recent: jax.Array
    since: jax.Array

    @classmethod
    def empty(cls, rows: int) -> "RuleState":
        """The state before the first symbol."""
        return cls(jnp.full((rows, LOOKBACK), NONE, jnp.int32), jnp.zeros((rows,), jnp.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Boundaries:
    """Where patches start and end, bool `[B, T]` each; False in padding.

    Attributes:
        starts: whether a patch starts at the symbol.
        ends: whether it is already known at the symbol that a patch ends with it. For the kinds
            "whitespace", "space", "whitespace_run" and "fixed" that is every end but a document's
            last; for the others, those of `longest` alone.
    """

    starts: jax.Array
    ends: jax.Array


# Compiled whole also where nothing else is: data tools call it for texts of many lengths.
@partial(jax.jit, static_argnums=0)
def find_boundaries(
    rule: BoundaryRule, ids: jax.Array, document_ids: jax.Array, state: RuleState | None = None
) -> tuple[Boundaries, RuleState]:
    """Applies a rule to rows of symbols, or to the next symbols of rows.

    Args:
        ids: int32 `[B, T]`.
        document_ids: int32 `[B, T]`, as in a batch; what follows padding (0) is not looked at.
        state: what the last call returned for the symbols before, all of one document; None at
            the start of a row.

    Returns:
        the boundaries, and the state after the last symbol of each row's first segment.
    """
    rows, length = ids.shape
    first = jnp.diff(document_ids, axis=1, prepend=document_ids[:, :1]) != 0
    if state is None:
        state = RuleState.empty(rows)
    extended = jnp.concatenate([state.recent, ids], axis=1)
    # Symbols before a document's first are none of its.
    age = jnp.arange(length)[None, :] - _last_true(first, -LOOKBACK)
    symbols = [
        jnp.where(age < back, NONE, extended[:, LOOKBACK - back : LOOKBACK - back + length])
        for back in range(LOOKBACK + 1)
    ]
    valid = document_ids > 0
    begins = symbols[1] == NONE
    starts, ends = _RULES[rule.kind](symbols)
    last = _last_true(starts | begins, 0)
    since = jnp.arange(length)[None, :] - last
    carried = ~(jnp.cumsum(starts | begins, axis=1) > 0)
    since = jnp.where(carried, since + state.since[:, None], since)
    if rule.longest is not None:
        starts |= (since > 0) & (since % rule.longest == 0)
        ends |= (since + 1) % rule.longest == 0

    count = jnp.cumprod(document_ids == document_ids[:, :1], axis=1).sum(axis=1) * valid[:, 0]
    recent = jnp.take_along_axis(
        extended, count[:, None] + jnp.arange(LOOKBACK)[None, :], axis=1, mode="clip"
    )
    index = jnp.maximum(count - 1, 0)[:, None]
    after = jnp.where(count > 0, jnp.take_along_axis(since, index, axis=1)[:, 0] + 1, state.since)
    return Boundaries(starts & valid, ends & valid), RuleState(recent, after)


def _last_true(flags: jax.Array, before: int) -> jax.Array:
    """The index of the last True up to each position of `[B, T]`; `before` where there is none."""
    index = jnp.where(flags, jnp.arange(flags.shape[1])[None, :], before)
    return jax.lax.cummax(index, axis=1)


_Symbols = Sequence[jax.Array]
"""A position's symbol `[0]`, the one before it `[1]`, and so on, int32 `[B, T]` each."""


def _spacelike(symbols: _Symbols) -> tuple[jax.Array, jax.Array]:
    def spacelike(s: jax.Array) -> jax.Array:
        letter_or_digit = (
            ((s >= 48) & (s <= 57)) | ((s >= 65) & (s <= 90)) | ((s >= 97) & (s <= 122))
        )
        continuation = (s >= 128) & (s < 192)
        return (s != NONE) & ~letter_or_digit & ~continuation

    here, before = symbols[:2]
    starts = (spacelike(here) & ~spacelike(before)) | (here == START)
    return starts, jnp.zeros_like(starts)


def _whitespace_bytes(symbols: _Symbols) -> jax.Array:
    """Bytes of the White_Space character, or START, that ends at the symbol; 0 if none does."""
    a, b, c = symbols[:3]
    one = ((a >= 0x09) & (a <= 0x0D)) | (a == 0x20) | (a == START)
    two = (b == 0xC2) & ((a == 0x85) | (a == 0xA0))
    general = (c == 0xE2) & (b == 0x80)
    spaces = ((a >= 0x80) & (a <= 0x8A)) | (a == 0xA8) | (a == 0xA9) | (a == 0xAF)
    three = (
        (general & spaces)
        | ((c == 0xE2) & (b == 0x81) & (a == 0x9F))
        | ((c == 0xE1) & (b == 0x9A) & (a == 0x80))
        | ((c == 0xE3) & (b == 0x80) & (a == 0x80))
    )
    return one + 2 * two + 3 * three


def _whitespace(symbols: _Symbols) -> tuple[jax.Array, jax.Array]:
    def ends(symbols: _Symbols) -> jax.Array:
        return _whitespace_bytes(symbols) > 0

    return ends(symbols[1:]) | (symbols[1] == NONE), ends(symbols)


def _space(symbols: _Symbols) -> tuple[jax.Array, jax.Array]:
    def ends(symbol: jax.Array) -> jax.Array:
        return (symbol == ord(" ")) | (symbol == START)

    return ends(symbols[1]) | (symbols[1] == NONE), ends(symbols[0])


def _whitespace_run(symbols: _Symbols) -> tuple[jax.Array, jax.Array]:
    def ends(symbols: _Symbols) -> jax.Array:
        size = _whitespace_bytes(symbols)
        goes_on = [(size == n) & (_whitespace_bytes(symbols[n:]) > 0) for n in (1, 2, 3)]
        return (symbols[0] == START) | ((size > 0) & ~(goes_on[0] | goes_on[1] | goes_on[2]))

    return ends(symbols[1:]) | (symbols[1] == NONE), ends(symbols)


def _fixed(symbols: _Symbols) -> tuple[jax.Array, jax.Array]:
    return symbols[1] == NONE, jnp.zeros_like(symbols[0], bool)


_UPPER, _LOWER, _LETTER, _DIGIT, _SPACE, _LINE, _PUNCTUATION = range(7)
_OWN, _CONTINUATION, _OTHER = range(7, 10)


def _classes() -> np.ndarray:
    """The class of each byte; of a character outside ASCII, by its first byte."""
    classes = np.full(START + 1, _OTHER)
    classes[:128] = _PUNCTUATION
    classes[[*b"\t ", 0x0B, 0x0C]] = _SPACE
    classes[[*b"\n\r"]] = _LINE
    classes[ord("0") : ord("9") + 1] = _DIGIT
    classes[ord("A") : ord("Z") + 1] = _UPPER
    classes[ord("a") : ord("z") + 1] = _LOWER
    classes[ord("_")] = _LETTER  # ExtendNumLet joins words
    classes[0x80:0xC0] = _CONTINUATION
    classes[0xC0:0xF0] = _LETTER
    classes[[0xC2, 0xE2, 0xEF]] = _PUNCTUATION
    classes[0xE3:0xEA] = _OWN
    classes[0xF0:0x100] = _OWN
    return classes


_CLASSES = _classes()


def _words(symbols: _Symbols) -> tuple[jax.Array, jax.Array]:
    table = jnp.asarray(_CLASSES)
    kinds = [jnp.where(s == NONE, _OTHER, table[s]) for s in symbols]
    here, before = kinds[0], kinds[LOOKBACK]
    for kind in kinds[LOOKBACK - 1 : 0 : -1]:  # the character before, by its first byte
        before = jnp.where(kind == _CONTINUATION, before, kind)

    def among(kind: jax.Array, *classes: int) -> jax.Array:
        return jnp.isin(kind, jnp.array(classes))

    letters = (_UPPER, _LOWER, _LETTER, _DIGIT)
    blank = (_SPACE, _LINE)
    # One space leads a word; a longer run of whitespace does not.
    leading = (kinds[1] == _SPACE) & ~among(kinds[2], *blank)
    goes_on = (
        (here == _CONTINUATION)
        | (among(here, *letters) & among(before, *letters))
        | ((here == _PUNCTUATION) & ~among(before, *blank, _OTHER))
        | (among(here, *blank) & among(before, *blank))
        | (~among(here, *blank, _OTHER) & leading)
    )
    camel_case = (here == _UPPER) & (kinds[1] == _LOWER)
    starts = ~goes_on | camel_case | (symbols[1] == NONE)
    return starts, jnp.zeros_like(starts)


_RULES = {
    "spacelike": _spacelike,
    "whitespace": _whitespace,
    "space": _space,
    "whitespace_run": _whitespace_run,
    "words": _words,
    "fixed": _fixed,
}
