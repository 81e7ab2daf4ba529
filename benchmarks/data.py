"""Speed of batches from packed text and from a stream, and of packing: `python -m benchmarks.data`.

Makes a corpus of its own, with document lengths as in web text. MB of batches are millions of
packed symbols, MB of packing millions of bytes of text, per second of CPU time and per second of
wall time. Packing is from shards of Parquet with zstd, and from one file of JSON lines, to all
splits in the cache, next to what Hugging Face's `datasets` takes for byte ids in rows
(`--packing-only` leaves the batches out). The ways are measured in turn, `--rounds` times; the
figures are medians.
"""

import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import tensorflow_datasets as tfds
import tyro
from pyarrow import parquet

from benchmarks.tables import show
from bytelm.data.config import DataConfig, Files, NextByte, Tfds
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.data.text_record import SPLITS


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
    packing_only: bool = False
    """Measure packing alone."""
    text: Path | None = None
    """File whose text is packed, again and again; none = words of random letters."""
    shards: int = 8
    """Files of Parquet."""
    processes: tuple[int, ...] = (1, 2)
    """How many processes pack."""
    rounds: int = 1
    """How often each way to pack is measured."""


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


def texts(benchmark: Benchmark) -> Iterator[bytes]:
    """Documents with log-normal lengths of about 2 kB."""
    generator = np.random.default_rng(0)
    letters = generator.integers(97, 123, 2**22, np.uint8)
    letters[generator.random(2**22) < 0.18] = ord(" ")
    letters[generator.random(2**22) < 0.015] = ord("\n")
    text = letters.tobytes() if benchmark.text is None else benchmark.text.read_bytes()
    total = begin = 0
    while total < benchmark.megabytes * 10**6:
        length = int(generator.lognormal(np.log(2000), 1))
        begin = begin + length if begin + length < len(text) else 0
        yield text[begin : begin + length]
        total += length


def write_shards(benchmark: Benchmark, folder: Path) -> tuple[list[str], str, int]:
    """Writes the documents as Parquet, and as one file of lines; returns files and bytes."""
    documents = list(texts(benchmark))
    count = -(-len(documents) // benchmark.shards)
    files = [str(folder / f"{index:05}.parquet") for index in range(benchmark.shards)]
    for index, file in enumerate(files):
        some = documents[index * count : (index + 1) * count]
        strings = [text.decode(errors="replace") for text in some]
        parquet.write_table(pyarrow.table({"text": strings}), file, compression="zstd")
    lines = folder / "all.jsonl"
    with lines.open("w") as output:
        for text in documents:
            output.write(json.dumps({"text": text.decode(errors="replace")}) + "\n")
    return files, str(lines), sum(map(len, documents))


def pack_bytelm(files: list[str], cache: Path, processes: int) -> None:
    """All splits of the files, into the cache."""
    source = Files(files=tuple(files))
    data = OpenData(DataConfig(source=source, cache_dir=str(cache)), processes=processes)
    for split in SPLITS:
        data.packed(data.sources[0], split)


def pack_datasets(files: list[str], cache: Path, processes: int) -> None:
    """The usual recipe: byte ids of each document, then rows of 1,024, in Arrow files."""
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(cache), num_proc=processes
    )
    loaded.map(in_rows, batched=True, num_proc=processes, remove_columns=["text"])


def in_rows(batch: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """The ids of a batch of documents, in rows."""
    joined = b"\0\0".join(text.encode() for text in batch["text"])
    ids = np.frombuffer(joined, np.uint8)
    return {"ids": ids[: len(ids) // 1024 * 1024].reshape(-1, 1024)}


def read_parquet(files: list[str], cache: Path, processes: int) -> None:
    """The bound: pyarrow decodes the column, in one thread, and nothing is written."""
    for file in files:
        for batch in parquet.ParquetFile(file).iter_batches(1024, use_threads=False):
            batch.column(0)


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    mine, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return mine.ru_utime + mine.ru_stime + others.ru_utime + others.ru_stime


def measure_packing(benchmark: Benchmark) -> list[tuple[str, ...]]:
    """A row for each way to pack."""
    with tempfile.TemporaryDirectory() as directory:
        files, lines, size = write_shards(benchmark, Path(directory))
        ways: list[tuple[str, Callable[[list[str], Path, int], None], list[str], int]] = [
            (f"bytelm, {what}", pack_bytelm, some, count)
            for what, some in ((f"{len(files)} .parquet", files), ("one .jsonl", [lines]))
            for count in benchmark.processes
        ]
        ways += [("datasets, load and map", pack_datasets, files, n) for n in benchmark.processes]
        ways += [("pyarrow, reading alone", read_parquet, files, 1)]
        measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for turn in range(benchmark.rounds):
            for index, (name, pack, some, processes) in enumerate(ways):
                cache = Path(directory, f"cache-{turn}-{index}")
                begin, cpu_begin = time.perf_counter(), cpu_seconds()
                try:
                    pack(some, cache, processes)
                except ImportError as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                seconds, cpu = time.perf_counter() - begin, cpu_seconds() - cpu_begin
                measured.setdefault((name, processes), []).append((cpu, seconds))
                shutil.rmtree(cache, ignore_errors=True)
        stored = sum(map(os.path.getsize, files))
    rows = []
    for (name, processes), times in measured.items():
        speeds = (size / 1e6 / statistics.median(each) for each in zip(*times, strict=True))
        rows.append((name, str(processes), *(f"{speed:.1f}" for speed in speeds)))
    megabytes = f"{size / 1e6:,.0f} MB of text in {stored / 1e6:,.0f} MB of Parquet"
    return [*rows, (megabytes, "", "", "")]


def main(benchmark: Benchmark) -> None:
    """Prints tables."""
    show(
        "Packing", ("with", "processes", "MB per CPU s", "MB/s of text"), measure_packing(benchmark)
    )
    if not benchmark.packing_only:
        show("Batches", ("read", "T", "batch", "MB per CPU s", "MB/s"), measure_batches(benchmark))


def measure_batches(benchmark: Benchmark) -> list[tuple[str, ...]]:
    """A row for each way to read and each length."""
    rows: list[tuple[str, ...]] = []
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
    return rows


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
