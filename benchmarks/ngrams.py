"""What tables of hashed n-grams cost in a training step: the rows that are read, or all rows.

    python -m benchmarks.ngrams

Training steps of `blt_tiny` with narrow local blocks: in turns without n-grams, and with small and
large tables of which a step changes the rows that its batch reads; then with all rows of the large
ones (`optimizer.lazy_tables=False`).
"""

from dataclasses import dataclass, replace

import tyro

from benchmarks.families import parameters, text_batch
from benchmarks.tables import show
from bytelm.models.blt import BLTConfig
from bytelm.models.parameters import roles_of
from bytelm.nn.mesh import MeshConfig
from bytelm.training.optimizer import AdamW
from bytelm.training.presets import load_preset
from bytelm.training.program import train_program
from bytelm.training.timing import in_turns, repeated_step


@dataclass(frozen=True)
class Arguments:
    """Sizes."""

    width: int = 64
    """Of the local blocks, and of the rows of the tables."""
    few: int = 20_000
    """Rows of each small table."""
    many: int = 500_002
    """Rows of each large table."""
    length: int = 1024
    """Bytes in a row of the batch."""
    symbols: int = 4096
    """Bytes in the batch."""
    rounds: int = 5
    """Timed steps of each."""


def main(arguments: Arguments) -> None:
    """Prints a table of training steps."""
    model = load_preset("blt_tiny").model
    assert isinstance(model, BLTConfig)
    model = replace(model, local_width=arguments.width, head_width=32)
    few, many = (replace(model, ngram_rows=rows) for rows in (arguments.few, arguments.many))
    contenders = {
        "no tables": (replace(model, ngrams=()), True),
        f"{len(model.ngrams)} x {arguments.few:,}, rows read": (few, True),
        f"{len(model.ngrams)} x {arguments.many:,}, rows read": (many, True),
        f"{len(model.ngrams)} x {arguments.many:,}, all rows": (many, False),
    }
    mesh, batch = MeshConfig(data=1).build(), text_batch(arguments.length, arguments.symbols)
    steps = {}
    for name, (config, lazy) in contenders.items():
        optimizer = AdamW().build(1000, roles_of(config))
        steps[name] = repeated_step(
            train_program(config, optimizer, mesh, lazy_tables=lazy), batch, mesh
        )
    runs = {name: step.run for name, step in steps.items()}
    # A step over all rows leaves cold caches to the step after it, so it is not among the others.
    last = {name: runs.pop(name) for name in list(runs)[-1:]}
    timings = in_turns(runs, rounds=arguments.rounds) | in_turns(last, rounds=arguments.rounds)
    base = timings["no tables"].median
    rows = [
        (
            name,
            f"{parameters(contenders[name][0]) / 1e6:.1f}",
            f"{timing.median * 1e3:,.0f}",
            f"{timing.least * 1e3:,.0f}",
            f"{timing.median / base:.2f}",
            f"{steps[name].temporary_bytes / 2**20:,.0f}",
        )
        for name, timing in timings.items()
    ]
    columns = ("tables", "M params", "median ms", "least ms", "x no tables", "temporary MiB")
    show(f"Training step of {batch.ids.size} bytes at T {arguments.length}", columns, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
