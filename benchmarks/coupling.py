"""How many drafts coupling accepts, against the bound of rejection sampling, for two models.

    python -m benchmarks.coupling --checkpoint runs/large --draft-checkpoint runs/a --text b.txt

At each symbol of a text, p is the large model's distribution and q that of the model that drafts.
Rejection sampling (arXiv 2211.17192) accepts a draft with probability sum(min(p, q)), which no rule
exceeds. Drawing from both with the same Gumbel noise (arXiv 2408.07978), as decoding does here,
both take x with probability 1 / sum_y(max(p(y) / p(x), q(y) / q(x))). Both are computed, not drawn.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.special import log_softmax

import bytelm
from benchmarks.tables import show


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    checkpoint: Path
    """The run directory of the model that verifies."""
    draft_checkpoint: Path
    """The run directory of the model that drafts."""
    text: Path
    """A file of text that neither has seen; its format is ignored."""
    temperatures: tuple[float, ...] = (0.5, 0.8, 1.0)
    """Of both models."""
    bytes: int = 8192
    """Bytes of the text that are read."""


def main(arguments: Arguments) -> None:
    """Measures, and shows a table."""
    text = arguments.text.read_bytes()[: arguments.bytes]
    paths = arguments.checkpoint, arguments.draft_checkpoint
    large, small = (bytelm.load(path).logits(text)[0].astype(np.float64) for path in paths)
    rows = []
    for temperature in arguments.temperatures:
        p, q = (log_softmax(logits / temperature, axis=-1) for logits in (large, small))
        bound = np.minimum(np.exp(p), np.exp(q)).sum(axis=-1)
        shares = bound, coupled(p, q), bound / (2 - bound), np.exp(p + q).sum(axis=-1)
        rows.append((f"{temperature}", *(f"{share.mean():.3f}" for share in shares)))
    columns = "temperature", "sum min(p, q)", "coupled", "least of coupling", "drawn separately"
    show(f"share of drafts accepted, {len(text):,} bytes of {arguments.text.name}", columns, rows)


def coupled(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """How often draws with the same noise agree, `[N]`, given log-probabilities `[N, V]`."""
    found = np.zeros(len(p))
    for x in range(p.shape[1]):
        ratios = np.maximum(p - p[:, x : x + 1], q - q[:, x : x + 1])
        with np.errstate(over="ignore"):  # infinite where x is next to impossible
            found += 1 / np.exp(ratios).sum(axis=1)
    return found


if __name__ == "__main__":
    main(tyro.cli(Arguments))
