"""The figures of runs: their units, and how older files are read."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from bytelm.core.figure import Figure
from bytelm.core.statistics import recorded

_UNITS = {
    "bpb": "bpb",
    "before": "bpb",
    "early": "bpb",
    "forgetting": "bpb",
    "validation_bits": "bpb",
    **dict.fromkeys(("accuracy", "exact_match", "kept"), "share"),
    "encoder_time_saved": "share",
    "train_flops": "FLOP",
    **dict.fromkeys(("train_raw_bytes", "peak_memory_bytes", "context_bytes"), "bytes"),
    **dict.fromkeys(("train_bytes_per_second", "train_bytes_per_second_in_turns"), "B/s"),
    **dict.fromkeys(("training_seconds", "compile_seconds"), "s"),
    "inference_flops_per_byte": "FLOP/byte",
    "inference_flops_per_byte_capacity": "FLOP/byte",
    "forward_flops_per_byte": "FLOP/byte",
    **dict.fromkeys(("parameters", "parameters_without_embeddings"), "count"),
    "bytes_per_token": "B/token",
}
"""By the last part of a figure's name; statistics declare their own."""
_BITS = ("bpb", "bpb_with_end", "validation_bits", "bits_per_sentence", "before", "early")
"""Last parts of the names of figures that are upper bounds for subword models."""


def named_figures(figures: Iterable[Figure], *, upper_bound: bool) -> dict[str, Figure]:
    """Figures by name; bits are marked as upper bounds if they are."""
    return {
        figure.name: dataclasses.replace(figure, bound=upper_bound and _is_bits(figure.name))
        for figure in figures
    }


def run_figures(values: Mapping[str, float], *, upper_bound: bool = False) -> dict[str, Figure]:
    """Figures of a run by name.

    Args:
        values: by name; `NAME_low` and `NAME_high` are the ends of the interval of `NAME`.
        upper_bound: whether bits are upper bounds.
    """
    figures = {}
    for name, value in values.items():
        stem = name.removesuffix("_low").removesuffix("_high")
        if stem != name and stem in values:
            continue
        ends = values.get(f"{name}_low"), values.get(f"{name}_high")
        unit = _UNITS.get(name.rpartition("/")[2]) or recorded(name, value).unit
        figures[name] = Figure(name, value, unit, *ends, upper_bound and _is_bits(name))
    return figures


def _is_bits(name: str) -> bool:
    return name.rpartition("/")[2] in _BITS


def saved_figures(saved: Mapping[str, Any], *, upper_bound: bool = False) -> dict[str, Figure]:
    """Figures of a file: as `Figure.to_json` wrote them, or plain numbers of older versions."""
    plain = {name: value for name, value in saved.items() if not isinstance(value, dict)}
    figures = {
        name: Figure.from_json(value) for name, value in saved.items() if isinstance(value, dict)
    }
    return run_figures(plain, upper_bound=upper_bound) | figures
