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

import numpy as np

from bytelm.data.config import DataConfig
from bytelm.data.corpus.cache import NoTextError, no_text
from bytelm.data.corpus.packers import AHEAD, available_cpus
from bytelm.data.corpus.packing import Arrays, Rows
from bytelm.data.open_data import OpenData
from bytelm.data.order import EndlessShuffle, source_seed
from bytelm.data.sources.source import Source

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

    def batch(self, first: int, count: int) -> Arrays:
        """The rows at `count` places from `first` on, as `RowSource.batch` gives them."""
        found = np.array([self._find(place) for place in range(first, first + count)])
        batch: Arrays = {}
        for window in np.unique(found[:, 0]).tolist():
            mine = found[:, 0] == window
            rows = self._rows(window)
            assert rows is not None
            for name, values in rows.batch(found[mine, 1]).items():
                shape = (count, *values.shape[1:])
                batch.setdefault(name, np.empty(shape, values.dtype))[mine] = values
        return batch

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

    def _opened(self, window: int) -> Rows | None:
        """The rows of a window; None if it has no text of the train split."""
        try:
            return Rows(
                self._data.window(self._source, "train", window), self._data.sequence_length
            )
        except NoTextError:
            return None


def _rebuilt(config: DataConfig, source: Source, seed: int) -> WindowedRows:
    return WindowedRows(OpenData(config, [source]), source, seed)


class PackingAhead:
    """A process that packs the shards of a source in their order, until all are packed.

    It says nothing: whoever needs a shard that cannot be packed finds the error. It ends with the
    process that started it.
    """

    def __init__(self, data: OpenData, source: Source, trainers: int) -> None:
        """Starts it; `trainers` processes train, which may share CPUs and a cache."""
        shards = [shard for window in data.windows(source) for shard in window]
        processes = max(1, (available_cpus() - 1) // trainers)
        self._process = subprocess.Popen(
            [sys.executable, "-c", AHEAD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        given = source, "train", shards, data.config.cache_path, processes
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
