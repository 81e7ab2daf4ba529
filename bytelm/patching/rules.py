"""Boundary rules: where patches start and end, as pure functions of the symbols.

A rule decides at a position from that symbol and the few before it. So the boundaries of a prefix
are the prefix of the boundaries: text can be generated symbol by symbol, and no boundary is ever
taken back. An option also limits the length of patches.

- `spacelike`: SpaceByte's rule (arXiv 2404.14408, appendix C; "utf8" in its code). A patch starts
  at START, and at a byte that is neither an ASCII letter or digit nor a UTF-8 continuation byte,
  unless the byte before it is such a byte too. In scripts of two bytes per letter every letter
  starts a patch.
- `whitespace`: a patch ends with each Unicode whitespace character (property White_Space), whose
  bytes belong to it, and with START.
- `space`: a patch ends with each space byte, and with START (the "whitespaces" of dynamic token
  pooling, arXiv 2211.09761).
- `whitespace_run`: a patch ends with the first whitespace character of a run, and with START; the
  rest of the run begins the next patch, so that indentation is not one patch per space.
- `fixed`: a patch starts every `longest` symbols of a document.
- `words`: words after Unicode's UAX-29 with the refinements of HAT (arXiv 2603.15953): a word
  takes one leading space and the punctuation after it; it is split after punctuation and where a
  lower-case letter meets an upper-case one; runs of whitespace are merged. UAX-29 looks ahead,
  which is impossible for a prefix, so two things differ. A run of several spaces is a patch of its
  own; in UAX-29 the last of them belongs to the next word. A character outside ASCII is classed by
  its first byte, which gives its block: CJK, kana, emoji and other symbols beyond the Basic
  Multilingual Plane start a word each; U+0080-00BF, U+2000-2FFF and U+F000-FFFF count as
  punctuation, all others as letters.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.variants import defined_in, place_of
from bytelm.core.vocabulary import START

LOOKBACK = 7
"""How many earlier symbols a rule looks at."""
NONE = -1
"""Stands for a symbol before the first one of the document or of the row."""

Mark = Literal["start", "end"]
"""The first symbol of a patch, or the last one."""
Lookback = Sequence[jax.Array]
"""A position's symbol `[0]`, the one before it `[1]`, and so on, int32 `[B, T]` each. A rule that
marks starts has them up to `[LOOKBACK]`, one that marks ends up to `[LOOKBACK - 1]`."""
FindMarks = Callable[[Lookback], jax.Array]


class Rule(NamedTuple):
    """A registered rule."""

    name: str  # its key in `RULES`
    find: FindMarks  # whether the symbol at [0] is one that the rule looks for, bool [B, T]
    marks: Mark  # whether that is the first symbol of a patch or the last one


RULES: dict[str, Rule] = {}
"""All rules by name."""


def rule(name: str, *, marks: Mark) -> Callable[[FindMarks], FindMarks]:
    """Registers a function of symbols as a `Rule`; UserError if another one has the name."""
    if marks not in get_args(Mark):
        raise UserError(f'the boundary rule {name!r} has marks={marks!r}; choose "start" or "end".')

    def register(find: FindMarks) -> FindMarks:
        if name in RULES and place_of(RULES[name].find) != place_of(find):
            raise UserError(f"there is a boundary rule {name!r} already; choose another name.")
        RULES[name] = Rule(name, find, marks)
        return find

    return register


@cache
def check_rule(rule: Rule) -> None:
    """Raises UserError unless a user's rule returns bool `[B, T]` for symbols `[B, T]`."""
    name, find, marks = rule
    if defined_in(find) is None:
        return
    shape = (2, 3)
    count = LOOKBACK + (marks == "start")
    code = getattr(find, "__code__", None)
    try:
        found = jax.eval_shape(find, [jax.ShapeDtypeStruct(shape, jnp.int32)] * count)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if code and frame.filename == code.co_filename]
        place = f" ({code.co_filename}, line {lines[-1]})" if code and lines else ""
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"the boundary rule {name!r} fails with {type(error).__name__}: {reason}{place}; use "
            f"operators of jnp on symbols[0] to symbols[{count - 1}], and no `if`."
        ) from error
    if getattr(found, "shape", None) != shape or found.dtype != jnp.bool_:
        place = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
        raise UserError(
            f"the boundary rule {name!r} returns {found} for symbols of shape {shape}{place}; it "
            "must return a bool for each symbol."
        )


class Edges(NamedTuple):
    """Where patches start and end, bool `[B, T]` each; False in padding."""

    starts: jax.Array  # whether a patch starts at the symbol
    ends: jax.Array
    """Whether a patch ends with the symbol, if that is known there. Rules that mark ends know all
    but a document's last one; rules that mark starts know those of `longest`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RuleCarry:
    """What a rule remembers of the symbols it has read."""

    recent: jax.Array
    """Int32 `[B, LOOKBACK]`, the last symbols, the newest last; NONE before the first."""
    since: jax.Array  # int32 [B], symbols since the last start that `longest` did not cause

    @classmethod
    def empty(cls, rows: int) -> "RuleCarry":
        """The carry before the first symbol."""
        return cls(jnp.full((rows, LOOKBACK), NONE, jnp.int32), jnp.zeros((rows,), jnp.int32))


def find_edges(
    rule: str | Rule,
    ids: Any,
    document_ids: Any,
    carry: RuleCarry | None = None,
    *,
    longest: int | None = None,
) -> tuple[Edges, RuleCarry]:
    """Applies a rule, or that of a name, to rows of symbols, or to the next symbols of rows.

    Args:
        ids: int32 `[B, T]`.
        document_ids: int32 `[B, T]`, as in a batch; symbols after padding (0) are ignored.
        carry: from the last call, for symbols before that are all of one document; None at the
            start of a row.
        longest: most symbols in a patch, after which the next one starts; None for no limit.

    Returns:
        the edges, and the carry after the last symbol of each row's first document.
    """
    rule = RULES[rule] if isinstance(rule, str) else rule
    check_rule(rule)
    return _find_edges(rule, ids, document_ids, carry, longest)


# Compiled as a whole even outside of other programs: data tools call it for texts of many lengths.
@partial(jax.jit, static_argnames=("rule", "longest"))
def _find_edges(
    rule: Rule,
    ids: jax.Array,
    document_ids: jax.Array,
    carry: RuleCarry | None,
    longest: int | None,
) -> tuple[Edges, RuleCarry]:
    rows, length = ids.shape
    first = jnp.diff(document_ids, axis=1, prepend=document_ids[:, :1]) != 0  # [B, T]
    if carry is None:
        carry = RuleCarry.empty(rows)
    extended = jnp.concatenate([carry.recent, ids], axis=1)  # [B, LOOKBACK + T]
    # Symbols before a document's first belong to another document.
    age = jnp.arange(length)[None, :] - _last_true(first, -LOOKBACK)
    symbols = [
        jnp.where(age < back, NONE, extended[:, LOOKBACK - back : LOOKBACK - back + length])
        for back in range(LOOKBACK + 1)
    ]
    begins = symbols[1] == NONE
    if rule.marks == "start":
        starts, ends = rule.find(symbols), jnp.zeros(ids.shape, bool)
    else:
        starts, ends = begins | rule.find(symbols[1:]), rule.find(symbols)
    edges, since = split_longer(starts, ends, begins, document_ids, carry.since, longest)
    count = count_own(document_ids)
    recent = jnp.take_along_axis(
        extended, count[:, None] + jnp.arange(LOOKBACK)[None, :], axis=1, mode="clip"
    )
    return edges, RuleCarry(recent, since)


def split_longer(
    starts: jax.Array,
    ends: jax.Array,
    begins: jax.Array,
    document_ids: jax.Array,
    since: jax.Array,
    longest: int | None,
) -> tuple[Edges, jax.Array]:
    """Splits patches of more than `longest` symbols, which are all of that length but the last.

    Args:
        starts, ends: bool `[B, T]`, without this limit.
        begins: bool `[B, T]`, the first symbols of documents.
        document_ids: int32 `[B, T]`, as in a batch.
        since: int32 `[B]`, symbols since the last of the `starts` before.

    Returns:
        the edges, and `since` after the last symbol of each row's first document.
    """
    valid, index = document_ids > 0, jnp.arange(starts.shape[1])[None, :]
    found = starts | begins
    distance = index - _last_true(found, 0)
    carried = ~(jnp.cumsum(found, axis=1) > 0)
    distance = jnp.where(carried, distance + since[:, None], distance)
    if longest is not None:
        starts |= (distance > 0) & (distance % longest == 0)
        ends |= (distance + 1) % longest == 0
    after = last_own(distance, document_ids, since - 1) + 1
    return Edges(starts & valid, ends & valid), after


def count_own(document_ids: jax.Array) -> jax.Array:
    """The symbols of each row's first document, int32 `[B]`; 0 in a row of padding."""
    is_own = jnp.cumprod(document_ids == document_ids[:, :1], axis=1)
    return is_own.sum(axis=1) * (document_ids[:, 0] > 0)


def last_own(values: jax.Array, document_ids: jax.Array, before: jax.Array) -> jax.Array:
    """Of `[B, T]`, the value at the last symbol of each row's first document, `[B]`.

    It is `before`, `[B]`, in a row of padding.
    """
    count = count_own(document_ids)
    index = jnp.maximum(count - 1, 0)[:, None]
    return jnp.where(count > 0, jnp.take_along_axis(values, index, axis=1)[:, 0], before)


def _last_true(flags: jax.Array, before: int) -> jax.Array:
    """The index of the last True up to each position of `[B, T]`; `before` where there is none."""
    index = jnp.where(flags, jnp.arange(flags.shape[1])[None, :], before)
    return jax.lax.cummax(index, axis=1)


@rule("spacelike", marks="start")
def _spacelike(symbols: Lookback) -> jax.Array:
    def spacelike(s: jax.Array) -> jax.Array:
        letter_or_digit = (
            ((s >= 48) & (s <= 57)) | ((s >= 65) & (s <= 90)) | ((s >= 97) & (s <= 122))
        )
        continuation = (s >= 128) & (s < 192)
        return (s != NONE) & ~letter_or_digit & ~continuation

    return (spacelike(symbols[0]) & ~spacelike(symbols[1])) | (symbols[0] == START)


def _whitespace_bytes(symbols: Lookback) -> jax.Array:
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


@rule("whitespace", marks="end")
def _whitespace(symbols: Lookback) -> jax.Array:
    return _whitespace_bytes(symbols) > 0


@rule("space", marks="end")
def _space(symbols: Lookback) -> jax.Array:
    return (symbols[0] == ord(" ")) | (symbols[0] == START)


@rule("whitespace_run", marks="end")
def _whitespace_run(symbols: Lookback) -> jax.Array:
    size = _whitespace_bytes(symbols)
    goes_on = [(size == n) & (_whitespace_bytes(symbols[n:]) > 0) for n in (1, 2, 3)]
    return (symbols[0] == START) | ((size > 0) & ~(goes_on[0] | goes_on[1] | goes_on[2]))


@rule("fixed", marks="start")
def _fixed(symbols: Lookback) -> jax.Array:
    return symbols[1] == NONE


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


@rule("words", marks="start")
def _words(symbols: Lookback) -> jax.Array:
    table = jnp.asarray(_CLASSES)
    kinds = [jnp.where(s == NONE, _OTHER, table[s]) for s in symbols]
    here, before = kinds[0], kinds[LOOKBACK]
    for kind in kinds[LOOKBACK - 1 : 0 : -1]:  # the character before, by its first byte
        before = jnp.where(kind == _CONTINUATION, before, kind)

    def is_in(kind: jax.Array, *classes: int) -> jax.Array:
        return jnp.isin(kind, jnp.array(classes))

    letters = (_UPPER, _LOWER, _LETTER, _DIGIT)
    blank = (_SPACE, _LINE)
    # One space leads a word; a longer run of whitespace does not.
    leading = (kinds[1] == _SPACE) & ~is_in(kinds[2], *blank)
    goes_on = (
        (here == _CONTINUATION)
        | (is_in(here, *letters) & is_in(before, *letters))
        | ((here == _PUNCTUATION) & ~is_in(before, *blank, _OTHER))
        | (is_in(here, *blank) & is_in(before, *blank))
        | (~is_in(here, *blank, _OTHER) & leading)
    )
    camel_case = (here == _UPPER) & (kinds[1] == _LOWER)
    return ~goes_on | camel_case | (symbols[1] == NONE)
