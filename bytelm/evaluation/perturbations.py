"""Noise on characters, such as from typing, scanning and deception: pure functions of the text.

A text is split into its Unicode characters (code points) and, where it is not UTF-8, into single
bytes. Some characters are hit and changed, and all are joined again. Nothing is normalised.
On average `rate` of the characters are hit. A hit does nothing where a kind of noise cannot change
a character (digits have no case). A higher rate hits the characters of a lower one, in the same
way, and more of them.

Permuting, replacing and deleting characters are the perturbations of HAT (Neitemeier et al. 2025,
the experiments on robustness). Deleting, repeating (1 to 3 times more) and random case are those of
ByT5 (Xue et al. 2022, the experiments on synthetic noise). Inserted characters, neighbouring keys
and look-alikes are what people do. ByT5's random case draws the case of a character at random; here
a hit always changes it, so rate .5 is their rate 1.
"""

import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from bytelm.core.errors import UserError

Noise = Literal["permute", "replace", "delete", "insert", "repeat", "case", "keyboard", "homoglyph"]
NOISES: tuple[Noise, ...] = get_args(Noise)
"""All kinds of noise."""

QWERTY = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Letters of a keyboard; each row is half a key to the right of the one above."""
HOMOGLYPHS = dict(
    zip(
        "acdehijlopqsvwxyABCEHIJKMNOPSTXYZ",
        "\u0430\u0441\u0501\u0435\u04bb\u0456\u0458\u04cf\u043e\u0440\u051b\u0455\u03bd\u051d\u0445"
        "\u0443\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u039d\u041e\u0420\u0405\u0422"
        "\u0425\u03a5\u0396",
        strict=True,
    )
)
"""For a Latin letter, a Cyrillic one that looks the same, or a Greek one where there is none.
Unicode lists them all as confusable (UTS #39)."""


def check_noise(kind: str, rate: float) -> None:
    """Raises UserError for an unknown kind of noise, or a rate out of range."""
    if kind not in NOISES:
        raise UserError(f"there is no perturbation {kind!r}; choose from {', '.join(NOISES)}.")
    if not 0 <= rate <= 1:
        raise UserError(f"the rate of {kind} is {rate}; it must be between 0 and 1.")


def perturb(text: bytes, kind: Noise, rate: float, *, seed: int, document: int = 0) -> bytes:
    """The text with noise of one kind; the same arguments give the same bytes in any process.

    "permute" swaps neighbours: the text is cut into pairs, and `rate` of them change places.
    "replace" puts another character of the same text, each equally likely, in place of a hit, and
    "insert" puts one after it, so the noise has the script of the text.

    Args:
        text: any bytes.
        kind: one of `NOISES`.
        rate: share of the characters that are hit, 0 to 1; 0 gives the text itself.
        seed: seed of all noise.
        document: number of the text; each number gets its own noise.

    Raises:
        UserError: for an unknown kind, or a rate out of range.
    """
    check_noise(kind, rate)
    # An undecodable byte becomes a lone surrogate, and is encoded to the same byte again.
    units = list(text.decode(errors="surrogateescape"))
    # RandomState, because numpy promises never to change its streams.
    rng = np.random.RandomState([seed % 2**32, document, zlib.crc32(kind.encode())])
    hits = np.flatnonzero(rng.random_sample(len(units)) < rate).tolist()
    draws = rng.random_sample(len(units)).tolist()
    if kind == "permute":
        _swap(units, hits, first=rng.randint(2))
    else:
        alphabet = sorted(set(units))
        for place in hits:
            units[place] = _CHANGES[kind](units[place], draws[place], alphabet)
    return "".join(units).encode(errors="surrogateescape")


def _swap(units: list[str], hits: Sequence[int], first: int) -> None:
    """Swaps each pair of neighbours, from `first` on, whose left one is hit."""
    for place in hits:
        if place % 2 == first and place + 1 < len(units):
            units[place : place + 2] = units[place + 1], units[place]


def _replace(unit: str, draw: float, alphabet: Sequence[str]) -> str:
    step = 1 + int(draw * (len(alphabet) - 1))
    return alphabet[(bisect_left(alphabet, unit) + step) % len(alphabet)]


def _case(unit: str, draw: float, alphabet: Sequence[str]) -> str:
    other = unit.swapcase()
    return other if len(other) == 1 else unit


def _keyboard(unit: str, draw: float, alphabet: Sequence[str]) -> str:
    near = _NEIGHBOURS.get(unit, unit)
    return near[int(draw * len(near))]


def _neighbours() -> dict[str, str]:
    """For each letter, the letters on the keys around it, in the same case."""
    rows = enumerate(QWERTY)
    keys = {(2 * column + y, y): key for y, row in rows for column, key in enumerate(row)}
    around = ((-2, 0), (2, 0), (-1, -1), (1, -1), (-1, 1), (1, 1))
    near = {
        key: "".join(keys.get((x + right, y + down), "") for right, down in around)
        for (x, y), key in keys.items()
    }
    return near | {key.upper(): letters.upper() for key, letters in near.items()}


_NEIGHBOURS = _neighbours()
_CHANGES: dict[Noise, Callable[[str, float, Sequence[str]], str]] = {
    "replace": _replace,
    "delete": lambda unit, draw, alphabet: "",
    "insert": lambda unit, draw, alphabet: unit + alphabet[int(draw * len(alphabet))],
    "repeat": lambda unit, draw, alphabet: unit * (2 + int(draw * 3)),
    "case": _case,
    "keyboard": _keyboard,
    "homoglyph": lambda unit, draw, alphabet: HOMOGLYPHS.get(unit, unit),
}
"""How a hit changes a character, given a draw from [0, 1) and the characters of the text."""
