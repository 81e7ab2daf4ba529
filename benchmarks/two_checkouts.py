"""A benchmark run by two checkouts in turns, to see what a change costs.

    python -m benchmarks.two_checkouts ../before generate --rounds 10 -- --bytes 128

Each checkout runs its own copy of the benchmark in a process of its own. Wherever a benchmark times
contenders with `in_turns`, the two processes take one timed call each, in turns, and one of them
waits while the other works. So noise of the machine affects both. After each such place a table
compares the contenders that both have.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from multiprocessing.connection import Connection, Listener
from pathlib import Path

import tyro

from benchmarks.tables import show

HERE = Path(__file__).parents[1]
Times = dict[str, list[float]]

WORKER = """
import runpy, sys, time
from multiprocessing.connection import Client
from bytelm.training import timing

address, module, *sys.argv[1:] = sys.argv[1:]

def in_turns(contenders, *, rounds=5, warm_up=2):
    for run in contenders.values():
        for _ in range(warm_up):
            run()
    seconds = {name: [] for name in contenders}
    def timed(name):
        start = time.perf_counter()
        contenders[name]()
        seconds[name].append(time.perf_counter() - start)
        return seconds[name][-1]
    parent.send(list(contenders))
    while name := parent.recv():
        parent.send(timed(name))
    for name in contenders:  # those that the other checkout lacks
        while len(seconds[name]) < rounds:
            timed(name)
    return {name: timing.Timing(tuple(times)) for name, times in seconds.items()}

with Client(address) as parent:
    parent.recv()
    timing.in_turns = in_turns
    runpy.run_module(f"benchmarks.{module}", run_name="__main__", alter_sys=True)
"""
"""The program of each process: the benchmark, with the timed calls at the parent's command."""


class Checkout:
    """One checkout's benchmark, in a process of its own that works only when it is asked to."""

    def __init__(self, folder: Path, benchmark: str, options: tuple[str, ...]):
        self._files = ExitStack()
        address = str(Path(self._files.enter_context(tempfile.TemporaryDirectory()), "turns"))
        with Listener(address) as listener:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", WORKER, address, benchmark, *options],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(folder)},
            )
            self._worker: Connection = listener.accept()

    def next_contenders(self, answer: object) -> list[str] | None:
        """Lets it work up to the next place that times contenders; None where it has ended."""
        self._worker.send(answer)
        try:
            return self._worker.recv()
        except EOFError:
            self._files.close()
            if self._process.wait():
                raise SystemExit("the benchmark of a checkout failed: see above") from None
            return None

    def time(self, contender: str) -> float:
        """Seconds of one call of a contender."""
        self._worker.send(contender)
        return self._worker.recv()


def time_in_turns(checkouts: list[Checkout], contenders: list[str], rounds: int) -> list[Times]:
    """Seconds of each call, for each checkout by contender; who is first changes each round."""
    times: list[Times] = [{name: [] for name in contenders} for _ in checkouts]
    for round_ in range(rounds):
        for name in contenders:
            for index in (0, 1) if round_ % 2 else (1, 0):
                times[index][name].append(checkouts[index].time(name))
    return times


def compare(before: Times, after: Times) -> None:
    """Prints the median and least times of both, and their ratios."""
    rows = []
    for name in before:
        old, new = before[name], after[name]
        medians = statistics.median(old), statistics.median(new)
        paired = statistics.median(b / a for a, b in zip(old, new, strict=True))
        rows.append(
            (
                name,
                *(f"{1e3 * seconds:,.1f}" for seconds in (*medians, min(old), min(new))),
                f"{min(new) / min(old):.3f}",
                f"{paired:.3f}",
            )
        )
    columns = ("", "ms before", "now", "least before", "now", "least, ratio", "pairs, ratio")
    show("Two checkouts in turns", columns, rows)


def main(
    before: tyro.conf.Positional[Path],
    benchmark: tyro.conf.Positional[str],
    options: tyro.conf.Positional[tuple[str, ...]] = (),
    rounds: int = 7,
) -> None:
    """Runs a benchmark of another checkout and of this one in turns.

    Args:
        before: the other checkout.
        benchmark: a module of `benchmarks` that times contenders with `in_turns`.
        options: options of the benchmark, after `--`.
        rounds: timed calls of each contender.
    """
    checkouts = [Checkout(folder.resolve(), benchmark, options) for folder in (before, HERE)]
    answer: object = "start"
    while True:
        contenders = [checkout.next_contenders(answer) for checkout in checkouts]
        present = [names for names in contenders if names is not None]
        if len(present) < len(contenders):
            break
        common = [name for name in present[0] if name in present[1]]
        compare(*time_in_turns(checkouts, common, rounds))
        answer = None


if __name__ == "__main__":
    tyro.cli(main)
