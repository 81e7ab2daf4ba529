"""Entropies of a text, and the thresholds that cut it into patches of a wanted mean length."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Column, Table
from rich.text import Text

from bytelm.core.console import TerminalConsole
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES
from bytelm.data.corpus.packing import Rows
from bytelm.data.description import (
    PERCENT,
    QUANTILES,
    PatchStatistics,
    patch_statistics,
    printable,
    statistics_of_starts,
)
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.patching.entropy import STEP, EntropyRule, entropy_edges

Limit = Literal["threshold", "rise"]

ROWS_AT_ONCE = 8
BINS, WIDEST_BAR = 24, 48
LARGEST = 8 * BYTES
"""Limits are searched up to so many 256ths of a nat: 8 nats, more than the entropy of any byte."""
SHORTEST, FEWEST = 1.1, 2
"""Below so many bytes per patch, or patches per row that a limit makes, it is of no use."""
SHOWN_BYTES = 160
SPACE = "spacelike"
"""The rule that patches of each script are compared with."""


@dataclass(frozen=True)
class EntropySample:
    """Rows of text with the entropies after each symbol."""

    ids: np.ndarray  # int32 [R, T]
    document_ids: np.ndarray  # int32 [R, T]
    entropies: np.ndarray  # float32 [R, T], nats

    @property
    def num_bytes(self) -> int:
        """Bytes of text."""
        return int((self.ids < BYTES).sum())

    @property
    def used(self) -> np.ndarray:
        """The entropies on which a patch may depend, those of bytes, float32 `[N]`."""
        return self.entropies[self.ids < BYTES]

    def starts(self, rule: EntropyRule) -> np.ndarray:
        """Where patches start, bool `[R, T]`."""
        return np.asarray(entropy_edges(rule, self.entropies, self.document_ids)[0].starts)

    def patches(self, rule: EntropyRule) -> PatchStatistics:
        return statistics_of_starts(self.starts(rule), self.document_ids)


def sample_entropies(patches: EntropyModelPatches, params: Any, rows: Rows) -> EntropySample:
    """Computes the entropies of rows with the parameters of the entropy model, a nested dict."""
    found: list[tuple[np.ndarray, ...]] = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows.batch(range(first, first + ROWS_AT_ONCE))
        ids, document_ids = batch["ids"], batch["document_ids"]
        found.append(
            (ids, document_ids, np.asarray(_entropies(patches, params, ids, document_ids)))
        )
    parts = (np.concatenate(each)[: len(rows)] for each in zip(*found, strict=True))
    return EntropySample(*parts)


@functools.partial(jax.jit, static_argnums=0)
def _entropies(
    patches: EntropyModelPatches, params: Any, ids: jax.Array, document_ids: jax.Array
) -> jax.Array:
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: patches.build_alone(nnx.Rngs(0))))
    entropies: jax.Array = nnx.merge(graphdef, {"model": params}).entropies(ids, document_ids)
    return entropies


def find_limit(
    sample: EntropySample, rule: EntropyRule, bytes_per_patch: float, limit: Limit
) -> EntropyRule:
    """The rule with the threshold or rise that comes closest to a mean length of patches.

    It lies in the middle between two multiples of `STEP`, which entropies are. So the patches are
    also those of a program that does not round them.

    Raises:
        UserError: if no limit gives patches as long, or as short.
    """

    @jax.jit
    def starts(value: jax.Array, entropies: jax.Array, document_ids: jax.Array) -> jax.Array:
        return entropy_edges(_with(rule, limit, value), entropies, document_ids)[0].starts.sum()

    @functools.cache
    def mean(step: int) -> float:
        value = jnp.float32(step * STEP)
        return sample.num_bytes / int(starts(value, sample.entropies, sample.document_ids))

    first = last = round(LARGEST / BYTES / STEP)
    first = -first
    if not mean(first) <= bytes_per_patch <= mean(last):
        raise UserError(
            f"on this sample patches have from {mean(first):.2f} to {mean(last):.2f} bytes in the "
            f"mean, whatever the {limit}; ask for --bytes-per-patch in between."
        )
    while last - first > 1:  # mean(first) <= bytes_per_patch <= mean(last)
        middle = (first + last) // 2
        if mean(middle) < bytes_per_patch:
            first = middle
        else:
            last = middle
    best = min((first, last), key=lambda step: abs(mean(step) - bytes_per_patch))
    return _with(rule, limit, (best + 0.5) * STEP)


def _with(rule: EntropyRule, limit: Limit, value: Any) -> EntropyRule:
    return replace(rule, threshold=value) if limit == "threshold" else replace(rule, rise=value)


def collapse(sample: EntropySample, starts: np.ndarray) -> str | None:
    """A warning if patches, which start where bool `[R, T]`, are single bytes or whole rows."""
    mean = sample.num_bytes / starts.sum()
    # The first two symbols of a document start patches in any case.
    first = np.diff(sample.document_ids, axis=1, prepend=0) != 0
    found = (starts & ~first & ~np.roll(first, 1, axis=1)).sum(axis=1)
    if mean < SHORTEST:
        return f"nearly every byte is a patch ({mean:.2f} bytes per patch): raise the threshold"
    if np.median(found) < FEWEST:
        return f"half of the rows have {np.median(found):.0f} patches or fewer: lower the threshold"
    return None


def histogram(sample: EntropySample) -> tuple[np.ndarray, np.ndarray]:
    """The shares of the entropies in `BINS` equal bins, and the edges of the bins in nats."""
    counts, edges = np.histogram(sample.used, BINS, range=(0.0, float(np.log(BYTES + 1))))
    return counts / max(1, counts.sum()), edges


def print_entropies(sample: EntropySample, rule: EntropyRule, texts: int) -> None:
    """Prints the histogram, figures of the patches, and the first patches of some rows."""
    console, found = TerminalConsole(), sample.patches(rule)
    shares, edges = histogram(sample)
    console.print(f"entropy of the next byte, over {sample.num_bytes:,} bytes, in nats:")
    for share, low, high in zip(shares, edges[:-1], edges[1:], strict=True):
        bar = "#" * round(WIDEST_BAR * share / max(shares.max(), 1e-9))
        mark = (
            " <- threshold" if rule.threshold is not None and low <= rule.threshold < high else ""
        )
        console.print(Text(f"{low:5.2f} {share:6.1%} {bar}{mark}"))
    figures = ("threshold", "rise", "bytes per patch", *PERCENT, "model.bytes_per_slot")
    table = Table(*(Column(name, justify="right", overflow="fold") for name in figures))
    limits = ("-" if x is None else f"{x:.4f}" for x in (rule.threshold, rule.rise))
    quantiles = (f"{size:,.0f}" for size in np.quantile(found.sizes, QUANTILES))
    mean = f"{sample.num_bytes / len(found.sizes):.2f}"
    table.add_row(*limits, mean, *quantiles, f"{found.bytes_per_slot:.2f}")
    console.print(table)
    starts = sample.starts(rule)
    for row in range(min(texts, len(starts))):
        console.print(Text(_shown(sample.ids[row], starts[row])), soft_wrap=True)
    if warning := collapse(sample, starts):
        console.print(Text(f"warning: {warning}."), soft_wrap=True)


def print_scripts(
    samples: Mapping[str, EntropySample], rows: Mapping[str, Rows], rule: EntropyRule
) -> None:
    """Prints the bytes per patch of each script, and those of the rule `SPACE` on the same rows."""
    figures = ("script", "bytes", "bytes per patch", *PERCENT, SPACE)
    table = Table(*(Column(name, justify="right", overflow="fold") for name in figures))
    for script, sample in samples.items():
        found, spaces = sample.patches(rule).sizes, patch_statistics(SPACE, rows[script]).sizes
        quantiles = (f"{size:,.0f}" for size in np.quantile(found, QUANTILES))
        means = (f"{sample.num_bytes / len(sizes):.2f}" for sizes in (found, spaces))
        table.add_row(Text(script), f"{sample.num_bytes:,}", next(means), *quantiles, next(means))
    TerminalConsole().print(table)


def _shown(ids: np.ndarray, starts: np.ndarray) -> str:
    """The first bytes of a row on one line, with a bar before each patch."""
    pieces: list[bytes] = []
    for symbol, start in zip(ids[:SHOWN_BYTES].tolist(), starts.tolist(), strict=False):
        if start or not pieces:
            pieces.append(b"")
        pieces[-1] += bytes([symbol]) if symbol < BYTES else b""
    return "|".join(printable(piece) for piece in pieces if piece)


def plot_entropies(sample: EntropySample, rules: Sequence[EntropyRule], path: Path) -> None:
    """Draws the histogram, with the thresholds as lines, into a PNG or SVG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    shares, edges = histogram(sample)
    axes.bar(edges[:-1], 100 * shares, np.diff(edges), align="edge", color="#005a9c")
    for rule in rules:
        if rule.threshold is not None:
            mean = sample.num_bytes / len(sample.patches(rule).sizes)
            label = f"{rule.threshold:.3f} nats: {mean:.2f} bytes per patch"
            axes.axvline(rule.threshold, color="#d55e00", label=label)
            axes.legend(frameon=False)
    axes.set_xlabel("entropy of the next byte, nats")
    axes.set_ylabel("share of the bytes, %")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # a folder that is missing, a format that is unknown
        raise UserError(f"--plot {path} cannot be written: {error}.") from error
