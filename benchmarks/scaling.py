"""What large presets need on slices of a TPU, compiled by libtpu on this machine's CPU.

    python -m benchmarks.scaling                        # the table of docs/scaling.md
    python -m benchmarks.scaling --presets hat_1b --topologies v5e:8x8

For each preset and slice, the first mesh, remat and accumulation of `bytelm plan --fit` that fits,
since a hierarchical model takes minutes to compile; `--candidates 3` compares as many. The batch is
the preset's. The last column is the difference between the state as counted from shapes and
shardings and that of the compiled program. It needs the extra `tpu`, no device, and minutes for
each row; `--folder` keeps the figures of each row, so that it can be continued, and with
`--no-compile` the rows that it lacks are estimated.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from bytelm.core.errors import UserError
from bytelm.core.files import write_whole
from bytelm.training.forecast.fit import fit
from bytelm.training.forecast.report import COLUMNS, row_of, values_of
from bytelm.training.forecast.topology import find_topology
from bytelm.training.presets import load_preset


@dataclass(frozen=True)
class Scaling:
    """Prints a Markdown table of forecasts."""

    presets: tuple[str, ...] = (
        "transformer_1b",
        "hnet_2stage_xl",
        "spacebyte_30b",
        "hat_7b",
        "blt_8b",
    )
    topologies: tuple[str, ...] = ("v5p:2x2x4", "v5p:4x4x4", "v5p:4x8x8")
    folder: Path = Path("runs/scaling")
    """Where the figures of each compiled row are kept."""
    candidates: int = 1
    """How many choices that fit are compiled and compared; with 1 the first is the answer."""
    compile: bool = True
    """Whether to compile rows that are not there; otherwise they are estimated."""


def main(options: Scaling) -> None:
    """Makes the rows that are missing, and prints all of them."""
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = [
        row(preset, topology, options)
        for preset in options.presets
        for topology in options.topologies
    ]
    for cells in ((*COLUMNS, "state counted"), ["---"] * (len(COLUMNS) + 1), *rows):
        print(f"| {' | '.join(cells)} |")


def row(preset: str, topology: str, options: Scaling) -> list[str]:
    """The cells of a row, from its file if it is there."""
    path = options.folder / f"{preset}-{topology.replace(':', '-')}.json"
    if path.exists():
        kept: list[str] = json.loads(path.read_text())["cells"]
        return kept
    print(f"{preset} on {topology}", file=sys.stderr)
    try:
        found, chosen = fit(
            load_preset(preset),
            find_topology(topology),
            lambda text: print(f"  {text}", file=sys.stderr, flush=True),
            candidates=options.candidates,
            compiling=options.compile,
        )
    except UserError as error:
        return [preset, topology, str(error), *[""] * (len(COLUMNS) - 2)]
    if found.step is None:
        return [*row_of(found, preset), ""]
    cells = [*row_of(found, preset), f"{found.state.total / found.step.memory.state - 1:+.2%}"]
    write_whole(
        path, json.dumps({"cells": cells, "options": chosen, **values_of(found)}, indent=2) + "\n"
    )
    return cells


if __name__ == "__main__":
    main(tyro.cli(Scaling, description=__doc__))
