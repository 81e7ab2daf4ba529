"""Speed of batches from packed text and from a stream: `python -m benchmarks.data`.

Makes a corpus of its own, with document lengths as in web text. MB are millions of packed
symbols, per second of CPU time and per second of wall time.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tyro

from benchmarks.tables import show
from bytelm.data.config import DataConfig, NextByte, Tfds
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData


@dataclass(frozen=True)
class Benchmark:
    """What to measure."""

    megabytes: int = 64
    """Size of the corpus."""
    lengths: tuple[int, ...] = (1024, 2048, 8192)
    """Sequence lengths."""
    batch_symbols: int = 65536
    """Symbols in a batch."""
    symbols: int = 33_554_432
    """Symbols to read for each figure."""


class Synthetic(tfds.core.GeneratorBasedBuilder):
    """Random documents with log-normal lengths of about 2 kB."""

    VERSION = tfds.core.Version("1.0.0")
    megabytes = 64

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, bytes]]]:
        generator = np.random.default_rng(0)
        total = number = 0
        while total < self.megabytes * 10**6:
            length = int(generator.lognormal(np.log(2000), 1))
            yield number, {"text": generator.integers(32, 127, length, np.uint8).tobytes()}
            total, number = total + length, number + 1


def measure(config: DataConfig, symbols: int) -> tuple[float, float]:
    """MB of symbols per CPU second and per second, after the first batch."""
    loader = train_loader(OpenData(config), seed=0)
    next(loader)
    count = symbols // (config.batch_size * config.sequence_length)
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(count):
        batch = next(loader)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    loader.close()
    megabytes = count * batch.ids.size / 1e6
    return megabytes / cpu, megabytes / elapsed


def main(benchmark: Benchmark) -> None:
    """Prints a table."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        tfds.disable_progress_bar()
        Synthetic.megabytes = benchmark.megabytes
        Synthetic(data_dir=directory, file_format="array_record").download_and_prepare()
        for read in ("packed", "stream"):
            for length in benchmark.lengths:
                config = DataConfig(
                    source=Tfds(dataset="synthetic", data_dir=directory),
                    task=NextByte(read=read),
                    cache_dir=str(Path(directory, "cache")),
                    sequence_length=length,
                    batch_size=max(benchmark.batch_symbols // length, 1),
                )
                # A stream is packed while it is read, which takes several times as long.
                symbols = benchmark.symbols if read == "packed" else benchmark.symbols // 4
                per_cpu, per_second = measure(config, symbols)
                speeds = f"{per_cpu:.1f}", f"{per_second:.1f}"
                rows.append((read, str(length), str(config.batch_size), *speeds))
    show("Batches", ("read", "T", "batch", "MB per CPU s", "MB/s"), rows)


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
