"""How much of what a model writes, and of what it expects, is no UTF-8 (RFC 3629).

An automaton says which bytes may follow the bytes of a text so far: after a whole character, the
first byte of any other; inside a character, those continuation bytes that make one. Overlong forms,
surrogates and code points above U+10FFFF are no UTF-8. Nor may a text end inside a character. A
byte of the text that may not be there starts the automaton again, as decoders do.

The mass is teacher-forced: the probability, given the text, of all symbols that no UTF-8 has at
that place. A token counts if any of its bytes may not be where it would be.
"""

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.figure import Figure
from bytelm.core.intervals import share_interval
from bytelm.core.terminal_text import number_of
from bytelm.evaluation.reading import Ratios, in_order, read_documents
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText
from bytelm.models.contract import ModelOutput
from bytelm.tokenizers.tokenizer import Tokenizer

SHOWN = 5
"""Samples that are no UTF-8 in the report."""


@dataclass(frozen=True)
class UTF8(Evaluation):
    """UTF-8: the share of sampled texts that are valid, and the probability of invalid bytes."""

    name: ClassVar[str] = "utf8"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)

    samples: int = 64
    """Texts to sample, from their start; 0 for none."""
    sample_bytes: int = 128
    """Longest sample."""
    temperature: float = 1.0
    """Of the sampling."""
    seed: int = 0
    """Of the sampling."""

    def __post_init__(self) -> None:
        self.require("it must be at least 0", lambda x: x >= 0, "samples", "temperature")
        self.require_positive("sample_bytes")

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures of the text and of samples.

        - `invalid_mass`: the mean probability, over the places before each symbol and END, of what
          is no UTF-8 there; `invalid_mass/between` and `/inside` of the places between and inside
          characters; `invalid_mass_max`, the highest of all places;
        - `valid_samples`: the share of sampled texts that are UTF-8; `invalid_sample_bytes`: the
          share of their bytes that belong to no character. A sample that is cut at its longest may
          end inside a character.
        """
        mass = InvalidMass(invalid_symbols(loaded.tokenizer))
        found: dict[int, _Mass] = {}
        for document, _ in read_documents(loaded, text, scoring, mass):
            pieces = _pieces(document.symbols, loaded.tokenizer)
            states = symbol_states(pieces)  # [N + 1]
            masses = document.values[np.arange(len(states)), states]  # [N + 1]
            found[document.number] = _of_document(masses, states)
        ratios, parts = Ratios(), in_order(found)
        _add_mass(ratios, parts)
        notes: list[str] = []
        places = int(sum(each.places.sum() for each in parts))
        details: dict[str, Any] = {"documents": len(found), "places": places}
        if self.samples:
            details["invalid_samples"] = self._sample(loaded, ratios)
            count = number_of(self.samples, "sample")
            notes = [f"{count} of at most {self.sample_bytes} bytes, seed {self.seed}"]
        return Result(tuple(ratios.figures), tuple(notes), details, items=ratios.items)

    def _sample(self, loaded: LoadedModel, ratios: Ratios) -> list[str]:
        """Adds the figures of samples; returns some that are no UTF-8."""
        texts = loaded.generate(
            [b""] * self.samples,
            max_bytes=self.sample_bytes,
            temperature=self.temperature,
            seed=self.seed,
        )
        invalid = [invalid_bytes(text, cut=len(text) >= self.sample_bytes) for text in texts]
        valid = invalid.count(0)
        low, high = share_interval(valid, len(texts))
        ratios.figures.append(Figure("valid_samples", valid / len(texts), "share", low, high))
        lengths = list(map(len, texts))
        ratios.add("invalid_sample_bytes", invalid, lengths, "share", empty=0.0)
        wrong = [repr(text) for text, count in zip(texts, invalid, strict=True) if count]
        return wrong[:SHOWN]


def invalid_bytes(text: bytes, *, cut: bool = False) -> int:
    """How many bytes of a text belong to no character; a `cut` text may end inside one."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    return sum("\udc80" <= each <= "\udcff" for each in decoder.decode(text, final=not cut))


INVALID = 8
"""The state after a byte that may not be there. State 0 is between characters; in 1, 2 and 3 so
many continuation bytes must follow; 4, 5, 6 and 7 are those after E0, ED, F0 and F4."""


def _automaton() -> np.ndarray:
    """The state after each byte in each state, int8 `[INVALID + 1, 256]`."""
    following = np.full((INVALID + 1, 256), INVALID, np.int8)
    ranges = [
        *((0, 0x00, 0x7F, 0), (0, 0xC2, 0xDF, 1), (0, 0xE0, 0xEF, 2), (0, 0xF0, 0xF4, 3)),
        *((0, 0xE0, 0xE0, 4), (0, 0xED, 0xED, 5), (0, 0xF0, 0xF0, 6), (0, 0xF4, 0xF4, 7)),
        *((1, 0x80, 0xBF, 0), (2, 0x80, 0xBF, 1), (3, 0x80, 0xBF, 2)),
        *((4, 0xA0, 0xBF, 1), (5, 0x80, 0x9F, 1), (6, 0x90, 0xBF, 2), (7, 0x80, 0x8F, 2)),
    ]
    for state, first, last, after in ranges:
        following[state, first : last + 1] = after
    return following


AUTOMATON = _automaton()
_STEPS = AUTOMATON.tolist()


def symbol_states(pieces: Iterable[bytes]) -> np.ndarray:
    """The state before each piece of a text, and at its end, int8 `[N + 1]`."""
    states, state = [0], 0
    for piece in pieces:
        for byte in piece:
            state = _STEPS[state][byte]
            if state == INVALID:  # the byte may begin a character
                state = _STEPS[0][byte] % INVALID
        states.append(state)
    return np.array(states, np.int8)


def invalid_symbols(tokenizer: Tokenizer | None) -> np.ndarray:
    """Which outputs no UTF-8 has in each state, bool `[INVALID, outputs]`; END inside characters.

    Ids without bytes are not invalid: they write nothing.
    """
    texts = [bytes([byte]) for byte in range(256)] if tokenizer is None else tokenizer.token_bytes
    after = np.repeat(np.arange(INVALID)[:, None], len(texts), axis=1)  # [states, ids]
    for place in range(max(map(len, texts))):
        ids = np.array([index for index, text in enumerate(texts) if len(text) > place])
        bytes_there = np.array([texts[index][place] for index in ids])
        after[:, ids] = AUTOMATON[after[:, ids], bytes_there]
    end = np.arange(INVALID) != 0
    return np.concatenate([after == INVALID, end[:, None]], axis=1)


class InvalidMass:
    """For `Scorer.run`: the probability of invalid symbols in each state, `[B, T, INVALID]`."""

    def __init__(self, invalid: np.ndarray):
        self._invalid = invalid.T.astype(np.float32)  # [outputs, INVALID]

    def __call__(self, output: ModelOutput, targets: jax.Array) -> jax.Array:
        probabilities = jax.nn.softmax(output.logits.astype(jnp.float32), axis=-1)
        return jnp.matmul(probabilities, self._invalid, precision="highest")


@dataclass(frozen=True)
class _Mass:
    """Of a document: float64 `[2]` between and inside characters, and the highest mass."""

    mass: np.ndarray
    places: np.ndarray
    highest: float


def _of_document(mass: np.ndarray, states: np.ndarray) -> _Mass:
    inside = (states != 0).astype(np.int64)
    sums = np.bincount(inside, mass.astype(np.float64), minlength=2)
    return _Mass(sums, np.bincount(inside, minlength=2), float(mass.max()))


def _add_mass(ratios: Ratios, found: Sequence[_Mass]) -> None:
    """Adds the mean mass of all places, and of those between and inside characters; the highest."""
    mass = np.stack([each.mass for each in found])  # [documents, 2]
    places = np.stack([each.places for each in found])
    ratios.add("invalid_mass", mass.sum(axis=1), places.sum(axis=1))
    for place, part in enumerate(("between", "inside")):
        if places[:, place].any():
            ratios.add(f"invalid_mass/{part}", mass[:, place], places[:, place])
    ratios.figures.append(Figure("invalid_mass_max", max(each.highest for each in found)))


def _pieces(symbols: np.ndarray, tokenizer: Tokenizer | None) -> Iterable[bytes]:
    """The bytes of each symbol."""
    if tokenizer is None:
        return (bytes([byte]) for byte in symbols.tolist())
    return (tokenizer.token_bytes[token] for token in symbols.tolist())
