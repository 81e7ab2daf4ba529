"""The loss of a model on a batch, and the sums for a run's figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.statistics import (
    BITS_PER_TARGET_BYTE,
    BITS_PER_TARGET_BYTE_WITH_END,
    BPB,
    BPB_WITH_END,
    Ratio,
    Statistic,
)
from bytelm.core.vocabulary import BYTE_VOCABULARY, PAD, UNSCORED, Vocabulary
from bytelm.models import Batch, ModelOutput
from bytelm.models.contract import DELETED
from bytelm.patching.patches import LENGTHS, count_lengths

AUXILIARY = Statistic("auxiliary")
"""Auxiliary losses by name, in nats per scored symbol."""
BYTES_PER_PATCH = Statistic("bytes_per_patch", "B/patch")
PATCH_LENGTH = Statistic("patch_length", "share")
"""Share of the patches that have each length, in the classes of `LENGTHS`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Sums over the scored symbols of some batches.

    Attributes:
        nats: of all symbols, including END.
        bytes: of text.
        symbols: bytes or tokens, including END.
        inputs: symbols that the encoder read; None without one.
        patches: as in `ModelConfig.forward_flops`: patches that started, or inputs that the
            encoder did not delete; None in a flat model.
        statistics: ratios; the first one is `measure`.
    """

    nats: Any
    bytes: Any
    symbols: Any
    inputs: Any
    patches: Any
    statistics: tuple[Ratio, ...]

    @property
    def measure(self) -> Ratio:
        """Bits per byte of the text, or with an encoder of the targets."""
        return self.statistics[0]

    @property
    def read(self) -> Any:
        """Bytes of text, or with an encoder its inputs."""
        return self.bytes if self.inputs is None else self.inputs

    def ratio(self, statistic: Statistic) -> Ratio:
        """The ratio of a statistic."""
        return next(ratio for ratio in self.statistics if ratio.statistic is statistic)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepMetrics:
    """The metrics of a training step.

    Attributes:
        gradient_norm: before clipping.
        skipped: steps so far whose loss or gradient was not finite.
        skipped_in_row: how many of the last steps were skipped.
        weights: of auxiliary losses that a controller sets, by name.
    """

    sums: Sums
    gradient_norm: Any
    skipped: Any
    skipped_in_row: Any
    weights: dict[str, Any]


def score(
    model: nnx.Module,
    batch: Batch,
    scripts: tuple[str, ...] = (),
    weights: Mapping[str, jax.Array] = MappingProxyType({}),
    symbols_per_input: jax.Array | None = None,
    vocabulary: Vocabulary = BYTE_VOCABULARY,
) -> tuple[jax.Array, Sums]:
    """The training loss summed over a batch's scored symbols, and the sums for its figures.

    Args:
        scripts: names, by the numbers in the batch.
        weights: of auxiliary losses in the training loss, by name; 1 for others.
        symbols_per_input: of the whole batch, for a micro-batch of an encoder.
        vocabulary: of the batch's symbols.
    """
    output = model(batch)
    nats = output.nats(batch.targets)  # [B, T]
    is_text = (batch.targets >= 0) & (batch.targets < vocabulary.end)  # [B, T]
    bytes_of = is_text.astype(jnp.int32) if batch.byte_counts is None else batch.byte_counts
    text_nats = jnp.where(is_text, nats, 0.0).sum()
    total, size, symbols = nats.sum(), bytes_of.sum(), (batch.targets != UNSCORED).sum()
    inputs: Any = None if batch.inputs is None else (batch.inputs != PAD).sum()
    # An encoder's losses are means over inputs; a micro-batch has a share of all inputs.
    share: Any = symbols if symbols_per_input is None else inputs * symbols_per_input
    losses = output.auxiliary_losses
    auxiliary = sum((weights.get(name, 1.0) * loss for name, loss in losses.items()), jnp.zeros(()))
    if inputs is None:
        bits = (BPB(text_nats, size), BPB_WITH_END(total, size))
        patches = None if output.patch_starts is None else output.patch_starts.sum()
    else:
        bits = (
            BITS_PER_TARGET_BYTE(text_nats, size),
            BITS_PER_TARGET_BYTE_WITH_END(total, symbols),
        )
        patches = inputs if output.deleted is None else inputs - output.deleted.sum()
    sums = Sums(
        nats=total,
        bytes=size,
        symbols=symbols,
        inputs=inputs,
        patches=patches,
        statistics=(
            *bits,
            *_of_patches(output, batch, bytes_of, scripts),
            *_of_deletions(output, batch, scripts),
            *output.statistics,
            *(
                AUXILIARY((loss * share)[None], symbols, parts=(name,))
                for name, loss in losses.items()
            ),
        ),
    )
    return total + auxiliary * share, sums


def _of_patches(
    output: ModelOutput, batch: Batch, bytes_of: jax.Array, scripts: tuple[str, ...]
) -> list[Ratio]:
    """Bytes per patch, in all and by script, and shares of patch lengths."""
    starts = output.patch_starts  # [B, T]
    if starts is None:
        return []
    lengths = count_lengths(starts, batch.document_ids)
    in_all, *by_script = _ratios(BYTES_PER_PATCH, bytes_of, starts, batch.scripts, scripts)
    return [in_all, PATCH_LENGTH(lengths, lengths.sum(), parts=LENGTHS), *by_script]


def _of_deletions(output: ModelOutput, batch: Batch, scripts: tuple[str, ...]) -> list[Ratio]:
    """The deleted share of an encoder's inputs, in all and by script."""
    if output.deleted is None:
        return []
    inputs = batch.inputs != PAD  # [B, S]
    script_of_row = batch.scripts[:, :1] if scripts else None  # [B, 1]
    return _ratios(DELETED, output.deleted, inputs, script_of_row, scripts)


def _ratios(
    statistic: Statistic,
    total: jax.Array,
    count: jax.Array,
    numbers: Any,
    scripts: tuple[str, ...],
) -> list[Ratio]:
    """The ratio of `total` to `count`, both `[B, T]`: in all and, if there are scripts, by script.

    Args:
        numbers: of the scripts, int `[B, T]` or `[B, 1]`; None without scripts.
    """
    found = [statistic(total.sum(), count.sum())]
    if scripts:
        of_script = numbers[:, :, None] == jnp.arange(len(scripts))[None, None]  # [B, T, N]
        sums = ((of_script * x[:, :, None]).sum(axis=(0, 1)) for x in (total, count))
        found.append(statistic(*sums, parts=scripts))
    return found
