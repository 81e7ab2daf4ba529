"""Packs the shards of a source that are not packed yet, in several processes.

Processes are started by their own command, not with `multiprocessing`, which would run a user's
script once more in each of them. They end with the process that started them, whose pipe they read.
"""

import collections
import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from bytelm.core.errors import UserError
from bytelm.core.locks import is_locked
from bytelm.data.corpus.entries import LOCK_ENDING, check_room, is_complete
from bytelm.data.corpus.input_shards import pack_shard, shard_directory
from bytelm.data.progress import TextProgress
from bytelm.data.sources.reader import InputShard
from bytelm.data.sources.source import Source
from bytelm.data.text_record import Split

PARALLEL_BYTES = 2**26
"""Less text is packed by this process alone, since others take about a second to start."""
_IMPORT = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from bytelm.data.corpus import packers; packers."
)
START = f"{_IMPORT}work()"
"""The program of a process that packs what it is told, after the search path of modules."""
AHEAD = f"{_IMPORT}work_ahead()"
"""The program of a process that packs all shards, and ends with the one that started it."""


def pack_shards(
    source: Source,
    stored: Split,
    shards: Sequence[InputShard],
    cache_path: Path,
    processes: int | None = None,
) -> frozenset[Path]:
    """Packs those shards of a stored split that are not packed.

    Several machines with one cache may do that at once: each packs what no other one is packing.

    Args:
        source: of the shards.
        stored: a split that it stores.
        shards: all of its shards.
        cache_path: of the cache.
        processes: how many pack; None = as many as CPUs for much text, and otherwise this one.

    Returns:
        the folders of the shards that were packed now.

    Raises:
        UserError: for a bad source, or a full disk.
    """

    def directory(shard: InputShard) -> Path:
        return shard_directory(source, stored, shard, cache_path)

    missing = [shard for shard in shards if not is_complete(directory(shard))]
    if not missing:
        return frozenset()
    size = sum(shard.size for shard in missing)
    if processes is None:
        processes = available_cpus() if size >= PARALLEL_BYTES else 1
    check_room(cache_path, f"the packed text of {source.name} ({stored})", size)
    with TextProgress(f"packing {source.name} ({stored})", size) as progress:
        queue = _Queue(missing, len(shards), directory, progress)
        if min(processes, len(missing)) < 2:
            queue.work(lambda shard, done: pack_shard(source, stored, shard, cache_path, done))
            return frozenset(map(directory, missing))
        with contextlib.ExitStack() as stack:
            packers = [
                stack.enter_context(_Packer(source, stored, cache_path))
                for _ in range(min(processes, len(missing)))
            ]
            stack.callback(queue.stop)
            _run([functools.partial(queue.work, packer.pack) for packer in packers])
    return frozenset(map(directory, missing))


def available_cpus() -> int:
    """CPUs that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(calls: Sequence[Callable[[], None]]) -> None:
    """Calls functions in threads of their own, and raises the first error of one of them."""
    pool = ThreadPoolExecutor(len(calls))
    try:
        finished, _ = wait([pool.submit(call) for call in calls], return_when=FIRST_EXCEPTION)
        for future in finished:
            future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Queue:
    """The shards that wait to be packed, which threads take one by one."""

    def __init__(
        self,
        shards: Sequence[InputShard],
        total: int,
        directory: Callable[[InputShard], Path],
        progress: TextProgress,
    ) -> None:
        self._waiting = collections.deque(shards)
        self._total, self._done = total, total - len(shards)
        self._directory, self._progress = directory, progress
        self._lock = threading.Lock()

    def stop(self) -> None:
        self._waiting.clear()

    def work(self, pack: Callable[[InputShard, Callable[[int], None]], None]) -> None:
        """Packs shards until none waits; `pack` tells of the bytes that are packed."""
        while (shard := self._take()) is not None:
            sizes: list[int] = []

            def done(size: int, sizes: list[int] = sizes) -> None:
                sizes.append(size)
                self._progress.advance(size)

            pack(shard, done)
            with self._lock:
                self._done += 1
                self._progress.count(f"{self._done} of {self._total} shards")
            if not sizes:
                self._progress.leave_out(shard.size)

    def _take(self) -> InputShard | None:
        """The first shard that no other process is packing; if there is none, the first."""
        with self._lock:
            for _ in range(len(self._waiting)):
                found = self._directory(self._waiting[0])
                if not is_locked(found.with_name(found.name + LOCK_ENDING)):
                    break
                self._waiting.rotate(-1)
            return self._waiting.popleft() if self._waiting else None


class _Packer:
    """A context with a process that packs shards, one at a time."""

    def __init__(self, source: Source, stored: Split, cache_path: Path) -> None:
        command = [sys.executable, "-c", START]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._name = source.name
        try:
            for each in (sys.path, (source, stored, cache_path)):
                self._send(each)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "_Packer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # an unfinished shard is packed again
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()

    def _send(self, value: object) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(value, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def pack(self, shard: InputShard, done: Callable[[int], None]) -> None:
        """Packs a shard; raises the error of the process, a UserError if it died."""
        assert self._process.stdout is not None
        self._send(shard)
        while True:
            try:
                answer = pickle.load(self._process.stdout)
            except EOFError:
                raise self._died() from None
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise answer
            done(answer)

    def _died(self) -> UserError:
        code = self._process.wait()
        hint = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
        return UserError(
            f"a process that packed {self._name} ended with status {code}{hint}; give the same "
            "command once more, which keeps the shards that are packed; fewer processes take less "
            "memory (`bytelm data pack --processes 1`)."
        )


def work() -> None:
    """The program of a process that packs: answers each shard with sizes, then None or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one handles it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what packages print must not get into the answers
    source, stored, cache_path = pickle.load(sys.stdin.buffer)

    def answer(value: Any) -> None:
        try:
            pickle.dump(value, answers)
            answers.flush()
        except BrokenPipeError:
            os._exit(1)

    while True:
        try:
            shard = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            pack_shard(source, stored, shard, cache_path, answer)
        except Exception as error:
            answer(_sendable(error))
        else:
            answer(None)


def work_ahead() -> None:
    """The program of a process that packs the shards that it is given, with little priority."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, stored, shards, cache_path, processes = pickle.load(sys.stdin.buffer)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    os.nice(10)
    pack_shards(source, stored, shards, cache_path, processes)


def _sendable(error: Exception) -> Exception:
    """The error, or one with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
