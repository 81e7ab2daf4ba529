"""The cost of checking data against digests: `python -m benchmarks.checks`.

Speeds of digests of files, of blocks of the cache and of arrays of checkpoints; and the time to
read random rows of packed text whose blocks are checked now, were checked before, or are never.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.tables import show
from bytelm.data.corpus.entries import CheckedArray, block_digests
from bytelm.data.sources.contents import content_digests
from bytelm.training.checkpoints.digests import digest_arrays


def least(run: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of several calls, after one that does not count."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main(megabytes: int = 256, row: int = 1024, rounds: int = 5) -> None:
    """Measures checks.

    Args:
        megabytes: size of the file and of the array.
        row: bytes of a row.
        rounds: repetitions; the least time counts.
    """
    size = megabytes * 2**20
    array = jax.random.normal(jax.random.key(0), (size // 4096, 1024), jnp.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text")
        path.write_bytes(np.random.default_rng(0).bytes(size))
        speeds = {
            "a file's content": lambda: content_digests([path], None),
            "blocks of the cache": lambda: block_digests(path),
            "an array of a checkpoint": lambda: digest_arrays("params", {"x": array}),
        }
        table = [(name, f"{size / least(run, rounds) / 1e6:,.0f}") for name, run in speeds.items()]
        show("Digests", ("of", "MB/s"), table)

        starts = np.random.default_rng(1).permutation(size // row)[: 2**15] * row
        digests = block_digests(path)
        plain = np.asarray(np.memmap(path, np.uint8, mode="r"))

        def read(source: CheckedArray | np.ndarray) -> float:
            begin = time.perf_counter()
            for start in starts.tolist():
                source[start : start + row]
            return (time.perf_counter() - begin) / len(starts) * 1e6

        checked = CheckedArray(path, np.uint8, digests)
        rows = [
            ("never checked", f"{read(plain):.2f}"),
            ("checked as they are read", f"{read(checked):.2f}"),
            ("checked before", f"{read(checked):.2f}"),
        ]
        show(f"A row of {row} bytes, {len(starts):,} of them at random", ("blocks", "us"), rows)


if __name__ == "__main__":
    tyro.cli(main)
