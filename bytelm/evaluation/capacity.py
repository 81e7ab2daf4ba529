"""Compression in proportion to computation: the information capacity of a model.

Yuan et al. 2025 ("Information Capacity", arXiv 2511.08066) divide the bits that a model saves by
the logarithm of the FLOPs that it takes: `(size - bits + bias) / log2(FLOPs)`, each a mean for one
token. Models of one series and different sizes then have about the same capacity. Here all means
are for one byte of text, because symbols differ between models, and the bias is 0 by default. (The
paper's, -24 for its mixed text, is fitted to tokens of several bytes.)

FLOPs are those of rows as long as the context, for the patches that the text has.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bytelm.api import LoadedModel
from bytelm.core.chart import Chart, Point
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.evaluation.flops import reading_flops
from bytelm.evaluation.reading import Ratios, in_order, read_documents
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import DECODER, Evaluation, Need, Scoring
from bytelm.evaluation.text import EvaluationText
from bytelm.inference.scoring import nats_and_marks
from bytelm.models.parameters import count_parameters

OF_TOKENS = "at least these bits are saved: only the canonical tokens count"
"""Says what is left out in a subword model."""


@dataclass(frozen=True)
class Capacity(Evaluation):
    """Information capacity: the bits that a model saves, in proportion to its FLOPs."""

    name: ClassVar[str] = "capacity"
    needs: ClassVar[tuple[Need, ...]] = (DECODER,)

    bias: float = 0.0
    """Added to the bits saved for each byte, in `information_capacity` alone."""

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures of the model on the text; intervals are those of the bits alone.

        - `saved_bits_per_byte`: 8 less the bits per byte;
        - `forward_flops_per_byte`, and with patches `..._at_capacity`, with every slot filled;
        - `saved_bits_per_gflop`: bits saved by each 10^9 FLOPs;
        - `information_capacity`: bits saved for a byte (and the bias) over log2 of its FLOPs;
        - `parameters` and `parameters_without_embeddings`.
        """
        found: dict[int, tuple[float, int]] = {}  # of each document: bits saved, bytes
        inputs = patches = 0
        for document, _ in read_documents(loaded, text, scoring, nats_and_marks):
            nats, levels = document.values
            bits = float(nats[:-1].sum(dtype=np.float64)) / math.log(2)
            found[document.number] = 8 * document.bytes - bits, document.bytes
            inputs += len(nats)
            patches += int(levels[0].boundaries.sum()) if levels else 0
        saved, sizes = zip(*in_order(found), strict=True)
        rows, size = inputs / loaded.context, sum(sizes)
        row_flops = reading_flops(loaded, loaded.context, patches / rows if patches else None)
        flops = row_flops * rows / size
        if not flops > 1:
            raise UserError(
                f"the family {loaded.config.model.family} counts {flops} FLOPs for a byte, of "
                "which there is no capacity; leave capacity out of the suite."
            )
        ratios = Ratios()
        per_byte = ratios.add("saved_bits_per_byte", saved, sizes, "bits/byte")
        figures = [per_byte, Figure("forward_flops_per_byte", flops, "FLOP/byte")]
        if patches:
            full = reading_flops(loaded, loaded.context, None) * rows / size
            figures.append(Figure("forward_flops_per_byte_at_capacity", full, "FLOP/byte"))
        per_gflop = _scaled(per_byte, 1e9 / flops, name="saved_bits_per_gflop", unit="bits/GFLOP")
        scale, name = 1 / math.log2(flops), "information_capacity"
        capacity = _scaled(per_byte, scale, shift=self.bias * scale, name=name, unit="")
        every, inner = count_parameters(loaded.config.model)
        figures += [
            *(per_gflop, capacity),
            Figure("parameters", every, "count"),
            Figure("parameters_without_embeddings", inner, "count"),
        ]
        points = {"model": [Point(flops, capacity.value, capacity.interval)]}
        axes = ("forward FLOPs per byte", "information capacity")
        notes = () if loaded.tokenizer is None else (OF_TOKENS,)
        details = {"documents": len(sizes), "patches": patches}
        chart = Chart.of("Information capacity", *axes, points, log_x=True)
        return Result(tuple(figures), notes, details, items=ratios.items, charts=(chart,))


def _scaled(figure: Figure, scale: float, *, shift: float = 0.0, name: str, unit: str) -> Figure:
    """`scale * figure + shift`, with its interval, under another name."""

    def of(value: float | None) -> float | None:
        return None if value is None else scale * value + shift

    value = scale * figure.value + shift
    return Figure(name, value, unit, of(figure.low), of(figure.high))
