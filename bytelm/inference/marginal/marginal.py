"""Exact byte probabilities of a subword model, by summing over all tokenisations of a text.

The probability of the canonical tokenisation is a lower bound of the text's, so its bits per byte
are an upper bound. Here every tokenisation counts (`bytelm.inference.marginal.covers`), and a
prompt may end anywhere, inside a token or a character, without biasing the continuation.

Cost: exact enumeration is exponential in the length of the text. With `covers` histories kept, the
model reads at most `covers` tokens per byte, each in one decoding step that copies a row of the
state. Memory: `covers` times a row's state for `context` symbols, and 8 bytes per token of the
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

from bytelm.core.checked import require_positive
from bytelm.core.errors import UserError
from bytelm.inference.generation import Draft, Generator
from bytelm.inference.marginal.covers import Covers
from bytelm.inference.marginal.token_reader import TokenReader
from bytelm.inference.sampling import Sampling, sample
from bytelm.inference.scoring import DocumentScores, checked_stride
from bytelm.inference.stopping import StopFilter
from bytelm.tokenizers.sorted_tokens import SortedTokens
from bytelm.tokenizers.tokenizer import Tokenizer

FEWEST_ROWS = 32
"""Token histories that the first state has room for, if their number is not limited."""


@dataclass(frozen=True)
class MarginalScores:
    """A subword model's scores of documents, over all tokenisations and for the canonical one.

    Attributes:
        marginal: nats over the covers kept, never more than the canonical ones. Exact if nothing
            was dropped.
        canonical: nats of the canonical tokenisation, with the same context.
        dropped: int64 `[documents]`, token histories dropped.
        dropped_bits: float64 `[documents]`, an estimate of the bits that dropping added to
            `marginal` (`Covers.dropped_bits`).
        tokens_read: int64 `[documents]`, tokens that the model read: the cost.
    """

    marginal: DocumentScores
    canonical: DocumentScores
    dropped: np.ndarray
    dropped_bits: np.ndarray
    tokens_read: np.ndarray


class ByteMarginal(Generator):
    """Scores and continues texts with a subword model as a distribution over bytes.

    `generate` and `stream` sample from `next_bytes`, one row after another.

    Args:
        graphdef, params: of the model, as for `Generator`.
        tokenizer: the one it was trained with.
        covers: how many of the most probable token histories to keep; None for all, which is exact
            and exponential in the length of the text.
        context: most symbols that the model sees.
        stride: how far the window of `context` symbols moves when it is full, as in
            `bytelm.inference.scoring`; None for half of it.

    Raises:
        UserError: for a number out of range.
    """

    makes_room = False
    no_drafts = "bytes summed over tokenisations are sampled one by one"

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
        require_positive("covers", covers)
        require_positive("the context", context)
        self._encode = tokenizer.encode
        self._tokens = SortedTokens(tokenizer.token_bytes)
        self._limit = covers
        self._new_reader = functools.partial(
            TokenReader,
            model=(self.graphdef, self.params),
            vocabulary=tokenizer.vocabulary,
            columns=np.append(self._tokens.ids, tokenizer.vocabulary.end),
            rows=covers or FEWEST_ROWS,
            context=context,
            kept=context - checked_stride(stride, context) + 1,
        )

    def score(self, texts: Iterable[bytes]) -> MarginalScores:
        """Scores whole documents, one after another.

        The canonical tokenisation is never dropped. The probability of ids without bytes is lost.

        Raises:
            UserError: if the tokenizer cannot reproduce a text.
        """
        counts, costs = [], []  # of each document
        for text in texts:
            covers = self._covers(text)
            canonical = covers.canonical
            assert canonical is not None
            counts.append((len(text), len(covers.canonical_ids), covers.dropped, covers.reads))
            marginal = -covers.log_mass, covers.log_mass - covers.log_end
            one_way = -canonical.log_p, -canonical.read.next_log_p[-1]
            costs.append((*marginal, *one_way, covers.dropped_bits))
        lengths, tokens, dropped, reads = np.array(counts, np.int64).reshape(-1, 4).T
        nats, end_nats, one_nats, one_end_nats, bits = np.array(costs).reshape(-1, 5).T
        return MarginalScores(
            marginal=DocumentScores(nats, end_nats, lengths, lengths),
            canonical=DocumentScores(one_nats, one_end_nats, lengths, tokens),
            dropped=dropped,
            dropped_bits=bits,
            tokens_read=reads,
        )

    def continuation(self, context: bytes, continuation: bytes) -> tuple[float, bool]:
        """Nats of a continuation's bytes after a context, and whether each is the likeliest there.

        Raises:
            UserError: if the tokenizer cannot reproduce the text.
        """
        covers = self._covers(context + continuation, fed=len(context))
        before, greedy = covers.log_mass, True
        for byte in continuation:
            greedy = greedy and int(covers.next_bytes().argmax()) == byte
            covers.feed(byte)
        return before - covers.log_mass, greedy

    def next_bytes(self, prefix: bytes) -> np.ndarray:
        """Probabilities of the 256 bytes and END after any bytes, float64 `[257]`.

        They sum to one: the probability of ids without bytes is divided among them.

        Raises:
            UserError: if the tokenizer cannot reproduce the prefix, or the model gives it
                probability 0.
        """
        return _normalised(self._covers(prefix))

    def _covers(self, text: bytes, fed: int | None = None) -> Covers:
        """The covers of a text's first `fed` bytes, or of all of them."""
        canonical = self._encode(text).tolist()
        covers = Covers(self._new_reader(), self._tokens, self._limit, canonical)
        for byte in text[:fed]:
            covers.feed(byte)
        return covers

    def _stream(
        self,
        prompts: Sequence[bytes],
        max_bytes: int,
        sampling: Sampling,
        seed: int,
        stop: Sequence[bytes],
        draft: Draft | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[list[bytes]]:
        numbers = range(len(prompts)) if numbers is None else numbers
        for row, (prompt, number) in enumerate(zip(prompts, numbers, strict=True)):
            key = jax.random.fold_in(jax.random.key(seed), number)
            text = StopFilter(stop, max_bytes)
            covers = self._covers(prompt)
            for position in range(max_bytes):
                symbol = _draw(_normalised(covers), key, np.int32(position), sampling)
                pieces = [b""] * len(prompts)
                pieces[row] = text.feed(np.asarray(symbol)[None])
                yield pieces
                if text.ended:
                    break
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
