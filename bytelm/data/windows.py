"""Rows shard by shard: some shards are shuffled, then the next ones, as they are packed.

The order depends only on the seed and on the shards, not on when they are packed, so that a resumed
run reads the same rows. A window that is not packed yet is packed, or waited for.
"""

import bisect
import contextlib
import functools
import pickle
import subprocess
import sys
from collections.abc import Sequence

import grain
import numpy as np

from bytelm.data.config import DataConfig
from bytelm.data.corpus.cache import NoTextError, no_text
from bytelm.data.corpus.packers import AHEAD, available_cpus
from bytelm.data.corpus.packing import Arrays, RowSource, joined_batch
from bytelm.data.open_data import OpenData
from bytelm.data.order import EndlessShuffle, source_seed
from bytelm.data.sources.source import Source
from bytelm.data.tasks.next_byte import NextByte

MOST_OPEN = 4
"""Windows that are kept open."""


class WindowedRows:
    """The training rows of a source in an endless order, window after window of its shards.

    Each window is shuffled in each epoch. Its last row is padded, as a corpus's is.
    """

    def __init__(self, data: OpenData, source: Source, seed: int) -> None:
        """Opens nothing yet."""
        self._data, self._source, self._seed = data, source, seed
        self._count = len(data.windows(source))
        self._ends: list[int] = []
        self._rows = functools.lru_cache(MOST_OPEN)(self._opened)

    def __reduce__(self) -> tuple[object, ...]:
        """Worker processes open the windows themselves."""
        return _rebuilt, (self._data.config, self._source, self._seed)

    def batch(self, indices: Sequence[int], places: Sequence[int] | None = None) -> Arrays:
        """Rows by their places in this order, as `RowSource.batch` gives them.

        `places` are those in the order of training, which seed random rows; None = the same.
        """
        found = np.array([self._find(index) for index in indices])
        seeds = np.asarray(indices if places is None else places)

        def batch_of(window: int, mine: np.ndarray) -> Arrays:
            rows = self._rows(window)
            assert rows is not None
            return rows.batch(found[mine, 1], seeds[mine])

        return joined_batch(found[:, 0], batch_of)

    def _find(self, place: int) -> tuple[int, int]:
        """The window and the row in it at a place."""
        while len(self._ends) < self._count and (not self._ends or place >= self._ends[-1]):
            rows = self._rows(len(self._ends))
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + (0 if rows is None else len(rows)))
        epoch = 0
        if place >= self._ends[-1]:
            if not self._ends[-1]:
                raise no_text(self._source, "train")
            epoch, place = divmod(place, self._ends[-1])
        window = bisect.bisect_right(self._ends, place)
        begin = self._ends[window - 1] if window else 0
        size = self._ends[window] - begin
        order = EndlessShuffle(0, size, source_seed(self._seed, window))
        return window, order[epoch * size + place - begin]

    def _opened(self, window: int) -> RowSource | None:
        """The rows of a window; None if it has no text of the train split."""
        task = self._data.config.task
        assert isinstance(task, NextByte)
        try:
            corpus = self._data.window(self._source, "train", window)
        except NoTextError:
            return None
        return task.rows_of(self._data, corpus, self._seed)


def _rebuilt(config: DataConfig, source: Source, seed: int) -> WindowedRows:
    return WindowedRows(OpenData(config, [source]), source, seed)


class MixedWindows:
    """The training rows of all sources in an endless order, mixed by their weights.

    Each source is read window after window.
    """

    def __init__(self, data: OpenData, seed: int) -> None:
        """Opens nothing yet."""
        self._sources = [
            WindowedRows(data, source, seed + index) for index, source in enumerate(data.sources)
        ]
        orders = [grain.MapDataset.source(_Owned(index)) for index in range(len(self._sources))]
        self._order = grain.MapDataset.mix(orders, data.weights)

    def batch(self, first: int, count: int) -> Arrays:
        """The rows at `count` places from `first` on, as `RowSource.batch` gives them."""
        places = np.arange(first, first + count)
        found = np.array([self._order[place] for place in places.tolist()])
        return joined_batch(
            found[:, 0],
            lambda source, mine: self._sources[source].batch(found[mine, 1], places[mine]),
        )


class _Owned:
    """The places of a source, endlessly, with its index."""

    def __init__(self, source: int) -> None:
        self._source = source

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> tuple[int, int]:
        return self._source, place


class PackingAhead:
    """A process that packs the shards of a source in their order, until all are packed.

    It says nothing: whoever needs a shard that cannot be packed finds the error. It ends with the
    process that started it.
    """

    def __init__(self, data: OpenData, source: Source, others: int) -> None:
        """Starts it; so many processes train or pack ahead, which may share CPUs and a cache."""
        processes = max(1, (available_cpus() - 1) // others)
        self._process = subprocess.Popen(
            [sys.executable, "-c", AHEAD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        given = source, "train", data.shards(source), data.config.cache_path, processes
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; shards are packed when needed
            for each in (sys.path, given):
                pickle.dump(each, self._process.stdin)
            self._process.stdin.flush()

    def close(self) -> None:
        """Ends it; the shards that it finished stay."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
