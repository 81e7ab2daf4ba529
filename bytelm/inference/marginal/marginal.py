"""Exact byte probabilities of a subword model, by summing over all its ways to write a text.

The probability of the canonical tokenisation alone is a lower bound of that of the text, so
its bits per byte are an upper bound. Here every tokenisation counts
(`bytelm.inference.marginal.covers`), and a prompt may end anywhere, inside a token or a character,
without a bias on what follows.

Cost: exact enumeration is exponential in the length of the text. With `covers` histories kept, the
model reads at most `covers` tokens per byte, each with one decoding step that copies its cache row.
Memory is `covers` times one row's cache of `context` symbols, and 8 bytes per token of the
vocabulary.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.inference.generation import Generator
from bytelm.inference.marginal.covers import Covers, columns
from bytelm.inference.marginal.token_reader import TokenReader
from bytelm.inference.sampling import Sampling, sample
from bytelm.inference.scoring import DocumentScores, default_stride
from bytelm.inference.stopping import StopFilter
from bytelm.tokenizers.sorted_tokens import SortedTokens
from bytelm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class MarginalScores:
    """What a subword model makes of documents, over all tokenisations and over the canonical one.

    Attributes:
        marginal: nats over the covers that were kept: at most those of `canonical`, for the bytes
            alone and with END. Exact if nothing was dropped.
        canonical: nats of the tokenizer's own tokenisation, with the same context.
        dropped: int64 `[documents]`, token histories that were dropped.
        dropped_bits: float64 `[documents]`, an estimate of the bits that this added to `marginal`
            (`Covers.dropped_bits`).
        tokens_read: int64 `[documents]`, tokens that the model read for it: the cost.
    """

    marginal: DocumentScores
    canonical: DocumentScores
    dropped: np.ndarray
    dropped_bits: np.ndarray
    tokens_read: np.ndarray


class ByteMarginal(Generator):
    """Scores and continues texts with a subword model as a distribution over bytes.

    `generate` and `stream` are those of `Generator`, over the probabilities of `next_bytes`; the
    rows are made one after another.

    Args:
        graphdef, params: of the model, as for `Generator`.
        tokenizer: the one it was trained with.
        covers: token histories that are kept, the most probable ones; None for all, which is
            exact, and exponential in the length of the text.
        context: symbols that the model sees at most.
        stride: how far the window of `context` symbols moves when it is full, as in
            `bytelm.inference.scoring`; None for half of it.

    Raises:
        UserError: for a number out of range.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: Any,
        tokenizer: Tokenizer,
        *,
        covers: int | None = 32,
        context: int,
        stride: int | None = None,
    ):
        super().__init__(graphdef, params)
        if covers is not None and covers < 1:
            raise UserError(f"covers is {covers}; it must be at least 1.")
        if context < 1:
            raise UserError(f"the context is {context}; it must be at least 1.")
        stride = default_stride(context) if stride is None else stride
        if not 1 <= stride <= context:
            raise UserError(
                f"the stride is {stride}; it must be between 1 and the context {context}."
            )
        self._encode = tokenizer.encode
        self._tokens = SortedTokens(tokenizer.token_bytes)
        self._limit = covers
        self._new_reader = functools.partial(
            TokenReader,
            self.graphdef,
            self.params,
            vocabulary=tokenizer.vocabulary,
            columns=columns(self._tokens, tokenizer.vocabulary.end),
            rows=covers,
            context=context,
            stride=stride,
        )

    def score(self, texts: Iterable[bytes]) -> MarginalScores:
        """Scores whole documents, read once, one after another.

        The canonical tokenisation is never dropped, so that no marginal is above its nats. The
        probability of ids without bytes is lost, not shared out.

        Raises:
            UserError: if the tokenizer cannot write back a text.
        """
        rows = [self._score(text) for text in texts]
        table = np.array(rows, np.float64).reshape(-1, 9).T
        byte_nats, end_nats, canonical_byte_nats, canonical_end_nats, bits = table[:5]
        lengths, tokens, dropped, reads = table[5:].astype(np.int64)
        return MarginalScores(
            marginal=DocumentScores(byte_nats, end_nats, lengths, lengths),
            canonical=DocumentScores(canonical_byte_nats, canonical_end_nats, lengths, tokens),
            dropped=dropped,
            dropped_bits=bits,
            tokens_read=reads,
        )

    def _score(self, text: bytes) -> tuple[float, ...]:
        ids = self._encode(text).tolist()
        covers = self._covers(text, ids)
        canonical = covers.canonical
        assert canonical is not None
        return (
            -covers.log_mass,
            covers.log_mass - covers.log_end,
            -canonical.log_p,
            -float(canonical.read.next_log_p[-1]),
            covers.dropped_bits,
            len(text),
            len(ids),
            covers.dropped,
            covers.reads,
        )

    def next_bytes(self, prefix: bytes) -> np.ndarray:
        """Probabilities of the 256 bytes and END after any bytes, float64 `[257]`.

        They sum to one: what ids without bytes would take is shared out.

        Raises:
            UserError: if the tokenizer cannot write back the prefix, or the model gives it no
                probability at all.
        """
        return _normalised(self._covers(prefix, self._encode(prefix).tolist()))

    def _covers(self, text: bytes, canonical: list[int]) -> Covers:
        covers = Covers(self._new_reader(), self._tokens, limit=self._limit, canonical=canonical)
        for byte in text:
            covers.feed(byte)
        return covers

    def _stream(
        self,
        prompts: Sequence[bytes],
        max_bytes: int,
        sampling: Sampling,
        seed: int,
        stop: Sequence[bytes],
    ) -> Iterator[list[bytes]]:
        for row, prompt in enumerate(prompts):
            pieces = [b""] * len(prompts)
            key = jax.random.fold_in(jax.random.key(seed), row)
            for piece in self._continue(prompt, sampling, key, max_bytes, stop):
                pieces[row] = piece
                yield list(pieces)

    def _continue(
        self,
        prompt: bytes,
        sampling: Sampling,
        key: jax.Array,
        max_bytes: int,
        stop: Sequence[bytes],
    ) -> Iterator[bytes]:
        """The continuation of one prompt, byte by byte."""
        row = StopFilter(stop, max_bytes)
        covers = self._covers(prompt, self._encode(prompt).tolist())
        for position in range(max_bytes):
            symbol = _draw(_normalised(covers), key, np.int32(position), sampling)
            yield row.feed(np.asarray(symbol)[None])
            if row.ended:
                return
            covers.feed(int(symbol))


def _normalised(covers: Covers) -> np.ndarray:
    joint = covers.next_bytes()
    total = joint.sum()
    if not total > 0:
        raise UserError("the model gives the prompt no probability; check that its tokenizer fits.")
    return joint / total


@jax.jit
def _draw(
    probabilities: jax.Array, key: jax.Array, position: jax.Array, sampling: Sampling
) -> jax.Array:
    """The symbol at one position of a row, int32 `[]`, from probabilities `[257]`."""
    keys = jax.random.fold_in(key, position)[None]
    return sample(jnp.log(probabilities)[None], keys, sampling)[0]
