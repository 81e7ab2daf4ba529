"""The interface of every model family: a config that builds a model of the next symbol."""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bytelm.core.losses import AuxiliaryLoss
from bytelm.core.statistics import Ratio, Statistic
from bytelm.core.variants import Variant
from bytelm.core.vocabulary import UNSCORED, Vocabulary
from bytelm.core.xla import backend
from bytelm.nn.linear import project
from bytelm.nn.mesh import sequence_shards
from bytelm.nn.sequence import filled
from bytelm.nn.stack import Stack
from bytelm.nn.stack_state import watch
from bytelm.nn.state import restore, snapshot
from bytelm.patching.marks import PatchMarks
from bytelm.patching.patches import OVERFLOW

ComputeDtype = Literal["auto", "float32", "bfloat16"]

DELETED = Statistic("deleted", "share")
"""Share of the inputs that an encoder deletes."""

LOGITS = 2**24
"""How many logits `Unembedding.nats` holds at a time."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Packed rows of symbols, and supervision for families that use it in training.

    Attributes:
        ids: int32 `[B, T]`, the symbols a model reads (`bytelm.core.vocabulary`).
        targets: int32 `[B, T]`, the symbol after each of them; UNSCORED where it is not scored.
        document_ids: int32 `[B, T]`, the document of each in its row, from 1; 0 in padding.
        scripts: int32 `[B, T]` or None, the script of each symbol's document: its number in
            `data.scripts`, -1 in padding.
        boundaries: bool `[B, T]` or None, the symbols with which a piece of `data.unigram` ends.
        byte_counts: int32 `[B, T]` or None, how many bytes each target stands for, 0 for END; None
            where symbols are bytes.
        inputs: int32 `[B, S]` or None, an encoder's inputs: bytes, END, then PAD. Each row then
            holds one document: START and its targets.
        entropies: float32 `[B, T]` or None, in nats after each symbol, from an entropy model.
        keys: uint32 `[B, 2]` or None, a random key for each row in training; None makes the model
            deterministic, as in evaluation.
    """

    ids: Any
    targets: Any
    document_ids: Any
    scripts: Any = None
    boundaries: Any = None
    byte_counts: Any = None
    inputs: Any = None
    entropies: Any = None
    keys: Any = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unembedding:
    """Logits of a large vocabulary, not computed yet: `finish(states @ kernel)`."""

    states: jax.Array  # [B, T, d], normalised
    kernel: jax.Array  # [d, V]
    finish: Callable[[jax.Array], jax.Array] | None = field(
        default=None, metadata={"static": True}
    )  # [..., V] -> [..., outputs]

    def logits(self) -> jax.Array:
        """All logits, float32 `[B, T, outputs]`."""
        return self._logits(self.states)

    def nats(self, targets: jax.Array) -> jax.Array:
        """Cross-entropy of targets int32 `[B, T]`, float32, without `[B, T, V]` in memory.

        Positions are divided into chunks: the logits of one chunk exist at a time, and the gradient
        recomputes them.
        """
        return self._map(optax.softmax_cross_entropy_with_integer_labels, targets)

    def best(self) -> jax.Array:
        """The likeliest output, int32 `[B, T]`, computed in chunks too."""
        return self._map(lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.int32))

    def _map(self, function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
        """A function of logits, and of arrays `[B, T]`, chunk by chunk: `[B, T]`."""
        rows, length = self.states.shape[:2]
        shards = sequence_shards()  # each chunk has some positions of each
        length = -(-length // shards)
        count = min(length, -(-rows * length * self.kernel.shape[1] // LOGITS))
        size = -(-length // count)

        def chunks(x: jax.Array) -> jax.Array:
            x = filled(x).reshape(rows, shards, length, *x.shape[2:])
            x = jnp.pad(x, ((0, 0), (0, 0), (0, -length % size), *(((0, 0),) * (x.ndim - 3))))
            return jnp.moveaxis(x.reshape(rows, shards, -1, size, *x.shape[3:]), 2, 0)

        @jax.checkpoint
        def of_chunk(states: jax.Array, *arrays: jax.Array) -> jax.Array:
            return function(self._logits(states), *arrays)

        found = jax.lax.map(
            lambda parts: of_chunk(*parts), tuple(map(chunks, (self.states, *arrays)))
        )  # [chunks, B, shards, size]
        found = jnp.moveaxis(found, 0, 2).reshape(rows, shards, -1)[:, :, :length]
        return found.reshape(rows, -1)[:, : self.states.shape[1]]

    def _logits(self, states: jax.Array) -> jax.Array:
        logits = project(states, self.kernel).astype(jnp.float32)
        return logits if self.finish is None else self.finish(logits)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModelOutput:
    """A model's results for a batch.

    Attributes:
        head: float32 `[B, T, outputs]`, logits of the bytes and END; those at t use the ids up to t
            of the same document. For a large vocabulary, an `Unembedding` that computes them.
            Encoder-decoder models have more outputs, which are never a target.
        segmentation_nats: float32 `[B, T]` or None; in a family that also predicts where patches
            end, the cost of predicting whether one ends at t. It counts where the target does.
        auxiliary_losses: in nats per scored symbol, added to the training loss.
        statistics: ratios over the batch that the family reports, such as its rate of boundaries.
        levels: the patches of each level, the outermost first; empty in a flat family.
        deleted: bool `[B, S]` or None, the inputs that a shortening encoder does not keep.
        states: `[B, T, d]` or None, the head's inputs after each byte.
    """

    head: jax.Array | Unembedding
    segmentation_nats: jax.Array | None = None
    auxiliary_losses: dict[str, AuxiliaryLoss] = field(default_factory=dict)
    statistics: tuple[Ratio, ...] = ()
    levels: tuple[PatchMarks, ...] = ()
    deleted: jax.Array | None = None
    states: jax.Array | None = None

    @property
    def patch_starts(self) -> jax.Array | None:
        """The bytes with which patches of the outermost level begin, bool `[B, T]`."""
        return self.levels[0].starts if self.levels else None

    @property
    def overflow(self) -> jax.Array | None:
        """Boundaries that were ignored because the capacity was used up; None without patches."""
        found = [
            ratio.total
            for ratio in self.statistics
            if ratio.statistic.name.partition("/")[0] == OVERFLOW.name
        ]
        return sum(found[1:], start=found[0]) if found else None

    @property
    def logits(self) -> jax.Array:
        """Float32 `[B, T, outputs]`."""
        return self.head.logits() if isinstance(self.head, Unembedding) else self.head

    @property
    def best(self) -> jax.Array:
        """The likeliest next symbol, int32 `[B, T]`."""
        if isinstance(self.head, Unembedding):
            return self.head.best()
        return jnp.argmax(self.head, axis=-1).astype(jnp.int32)

    def nats(self, targets: jax.Array) -> jax.Array:
        """The cost of each target `[B, T]` in nats, float32 `[B, T]`; 0 where UNSCORED."""
        scored = targets != UNSCORED
        labels = jnp.where(scored, targets, 0)
        if isinstance(self.head, Unembedding):
            nats = self.head.nats(labels)
        else:
            logits = self.head.astype(jnp.float32)
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        if self.segmentation_nats is not None:
            nats += self.segmentation_nats
        return jnp.where(scored, nats, 0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Verification:
    """Symbols that were read, and the states before and after them, for `LanguageModel.keep`."""

    ids: jax.Array  # int32 [B, N]
    then: Any  # a snapshot of the state before
    after: Any


class LanguageModel(nnx.Module):
    """A probability for the next symbol given the symbols before it.

    `__call__` scores whole rows; `init_state` and `extend` give the same numbers step by step.
    """

    draft: Any = None
    """Draft heads (`bytelm.models.draft`), if there are any."""

    def __call__(self, batch: Batch) -> ModelOutput:
        """Logits for every position of `batch`; its targets are ignored."""
        raise NotImplementedError

    def init_state(self, batch_size: int, max_length: int) -> Any:
        """The decoding state of rows that will have at most `max_length` symbols.

        A pytree whose leaves all have the batch axis first (`bytelm.nn.state`).
        """
        raise NotImplementedError

    def extend(self, ids: jax.Array, state: Any, lengths: jax.Array) -> tuple[jax.Array, Any]:
        """Reads the next N symbols of each row: prefill for N > 1, a decoding step for N = 1.

        Args:
            ids: int32 `[B, N]`.
            state: from `init_state` or the last `extend`.
            lengths: int32 `[B]`, how many of the N symbols each row really has, from the first
                on (0 to N); the rest is ignored.

        Returns:
            logits float32 `[B, N, outputs]` (meaningless past `lengths`) and the new state.
        """
        raise NotImplementedError

    def advance(self, ids: jax.Array, state: Any, lengths: jax.Array) -> tuple[ModelOutput, Any]:
        """`extend`, with all that the cost of the next symbols needs (`ModelOutput.nats`)."""
        logits, state = self.extend(ids, state, lengths)
        return ModelOutput(logits), state

    def verify(
        self, ids: jax.Array, state: Any, lengths: jax.Array
    ) -> tuple[jax.Array, "Verification"]:
        """`extend` by drafted symbols, of which `keep` may then take back the last.

        Returns:
            logits float32 `[B, N, outputs]` as of `extend`, and what `keep` needs.
        """
        before = watch(state)
        logits, after = self.extend(ids, before, lengths)
        return logits, Verification(ids, snapshot(before, ids.shape[1]), after)

    def keep(self, verified: "Verification", kept: jax.Array) -> Any:
        """The state after only the first `kept`, int32 `[B]`, of the symbols of `verify`.

        The model reads them again, but its stacks return the outputs that they know, so that little
        is computed: what is no stack, and the states of blocks that overwrite (windows, Mamba-2).
        """
        return self.extend(verified.ids, restore(verified.after, verified.then), kept)[1]

    def full_rows(self, state: Any) -> jax.Array | None:
        """The rows in which a patch found no slot, bool `[B]`; None in a family without patches."""
        return None

    def for_decoding(self) -> Self:
        """Rearranges the parameters, in place, into the form that makes `extend` fastest."""
        for _, module in list(nnx.iter_modules(self)):
            if isinstance(module, Stack):
                module.unstack()
        return self


@dataclass(frozen=True)
class ModelConfig(Variant, name="model", small=True, key="family"):
    """Base of every family's config. A subclass with a `family` is registered under that name."""

    family: ClassVar[str]

    compute_dtype: ComputeDtype = "auto"
    """Dtype of activations and matrix products; "auto" is bfloat16 on accelerators, float32 on
    CPU, where bfloat16 is faster on processors with units for it (AMX). Parameters, normalisation,
    softmax and loss are always float32."""

    @property
    def symbols(self) -> Vocabulary:
        """The symbols that the model reads and predicts."""
        return Vocabulary()

    @property
    def scripts(self) -> tuple[str, ...]:
        """The scripts that training must distinguish; `data.scripts` must be exactly these."""
        return ()

    @property
    def needs_unigram(self) -> bool:
        """Whether training needs the boundaries of `data.unigram`."""
        return False

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype that `compute_dtype` stands for on this machine."""
        if self.compute_dtype == "auto":
            return jnp.dtype("float32" if backend() == "cpu" else "bfloat16")
        return jnp.dtype(self.compute_dtype)

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> LanguageModel:
        """The model, with fresh parameters in float32."""

    @abc.abstractmethod
    def forward_flops(self, sequence_length: int, patches: float | None = None) -> float:
        """Floating-point operations of the matrix products of one forward pass over one row.

        Args:
            sequence_length: T.
            patches: of the row, for the cost of its content; None for its capacity, the cost of
                the computation. A flat model ignores it.

        A multiply-add counts 2; attention counts the pairs that the mask allows, without document
        boundaries. Draft heads do not count, since the likelihood does not need them. A step of
        training costs three times as much, with `draft_flops` and but for `frozen_flops`.
        """

    def frozen_flops(self, sequence_length: int, patches: float | None = None) -> float:
        """The part of `forward_flops` of what is not trained, such as an entropy model."""
        return 0.0

    def draft_flops(self, sequence_length: int) -> float:
        """FLOPs, as in `forward_flops`, of draft heads after the first."""
        return 0.0
