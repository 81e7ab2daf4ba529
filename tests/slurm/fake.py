"""A scheduler that runs job scripts as SLURM does, as far as the scripts of this project can tell.

It knows arrays, SIGTERM before the end of a task, nodes that go down, and queueing again. A step of
`srun` is one process.
"""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
TICK = 0.02
PROGRAMS = {
    "srun": """while [[ $1 == --* ]]; do shift; done
echo $$ > "$FAKE_SLURM/$FAKE_JOB.step"
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0
exec "$@\"""",
    "scancel": '[[ $1 == --signal=TERM ]]; kill -TERM "$(< "$FAKE_SLURM/$2.step")"',
    "scontrol": '[[ $1 == requeue ]]; touch "$FAKE_SLURM/$2.requeue"',
}
"""Stand-ins for SLURM's programs, in bash; a job is named as the script names it."""


@dataclass
class Task:
    """A job, or a task of an array."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen | None = None
    starts: int = 0
    statuses: list[int] = field(default_factory=list)


class FakeSlurm:
    """Args:
    folder: where the jobs run, as from the top of a checkout: it has `scripts` and `.venv`.
    server: the socket of `server.py`.
    limit: how many tasks run at the same time.
    """

    def __init__(self, folder: Path, server: str, limit: int = 4):
        self.folder, self.limit = folder, limit
        self.place = folder / "slurm"
        self.place.mkdir()
        # JAX takes the coordinator's port from a job's number.
        self._numbers = filter(_port_is_free, itertools.count(os.getpid()))
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SLURM")},
            "PATH": f"{self.place}:{os.environ['PATH']}",
            "FAKE_SLURM": str(self.place),
            "FAKE_SERVER": server,
        }
        for name, text in PROGRAMS.items():
            _program(self.place / name, f"#!/bin/bash\nset -e\n{text}\n")
        client = f'exec "{sys.executable}" -S -E "{HERE / "client.py"}"'
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        _program(programs / "bytelm", f'#!/bin/bash\n{client} "$@"\n')
        # train.py is `bytelm train`.
        _program(
            programs / "python", f'#!/bin/bash\n[[ $1 == train.py ]]; shift; {client} train "$@"\n'
        )
        (folder / "scripts").symlink_to(HERE.parents[1] / "scripts")
        self.tasks: list[Task] = []

    def sbatch(self, *arguments: str) -> list[Task]:
        """Submits a script with its arguments, after options of sbatch."""
        options = list(itertools.takewhile(lambda word: word.startswith("--"), arguments))
        script, *rest = arguments[len(options) :]
        number = next(self._numbers)
        command = ["bash", script, *rest]
        array = next((o.partition("=")[2] for o in options if o.startswith("--array=")), None)
        if array is None:
            tasks = [Task(str(number), command, {"SLURM_JOB_ID": str(number)})]
        else:
            first, last = map(int, re.fullmatch(r"(\d+)-(\d+)", array).groups())
            tasks = [
                Task(
                    f"{number}_{i}",
                    command,
                    {
                        "SLURM_JOB_ID": str(number if i == first else next(self._numbers)),
                        "SLURM_ARRAY_JOB_ID": str(number),
                        "SLURM_ARRAY_TASK_ID": str(i),
                    },
                )
                for i in range(first, last + 1)
            ]
        self.tasks += tasks
        return tasks

    def run(self, disturb: Callable[[list[Task]], None] = lambda running: None) -> None:
        """Runs all tasks to their ends; `disturb` may stop or kill those that run."""
        waiting, running = list(self.tasks), []
        while waiting or running:
            while waiting and len(running) < self.limit:
                running.append(self._start(waiting.pop(0)))
            disturb(running)
            time.sleep(TICK)
            for task in [task for task in running if task.process.poll() is not None]:
                running.remove(task)
                task.statuses.append(task.process.returncode)
                again = self.place / f"{task.name}.requeue"
                if again.exists() or task.process.returncode == -signal.SIGKILL:
                    again.unlink(missing_ok=True)
                    waiting.append(task)

    def log(self, task: Task) -> str:
        return (self.place / f"{task.name}.log").read_text()

    def preempt(self, task: Task) -> None:
        """SIGTERM to the script, as with `#SBATCH --signal=B:TERM@120`."""
        task.process.send_signal(signal.SIGTERM)

    def lose_node(self, task: Task) -> None:
        """Kills all processes of a task at once; it is queued again."""
        os.killpg(task.process.pid, signal.SIGKILL)
        with suppress(OSError, ValueError):
            os.kill(int((self.place / f"{task.name}.process").read_text()), signal.SIGKILL)

    def is_working(self, task: Task) -> bool:
        """Whether its process has begun."""
        return (self.place / f"{task.name}.process").exists()

    def _start(self, task: Task) -> Task:
        (self.place / f"{task.name}.process").unlink(missing_ok=True)
        with (self.place / f"{task.name}.log").open("a") as log:
            task.process = subprocess.Popen(
                task.command,
                cwd=self.folder,
                env={**self._environment, **task.environment, "FAKE_JOB": task.name},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        task.starts += 1
        return task


def _port_is_free(job: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", job % 2**12 + 2**16 - 2**12)) != 0


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The socket of a server, which ends with the context."""
    path = str(folder / "server")
    command = [sys.executable, "-m", "tests.slurm.server", path]
    with subprocess.Popen(command, cwd=HERE.parents[1], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield path
        finally:
            process.kill()
