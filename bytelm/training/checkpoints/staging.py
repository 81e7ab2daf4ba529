"""The checkpoints of a run at an address, and a copy of them on a disk of this machine.

Orbax reads and writes the copy. A checkpoint that it has finished is copied to the address file by
file, while training goes on, and the file `COMMIT` last: without it there is no checkpoint. Arrays
are copied back when they are read. The processes of a run share one local copy if they share the
disk, and each sends and fetches a part of the files. On several machines each process has a copy of
its own: Orbax writes the arrays' parts as files, and all files together are the checkpoint, of
which each process fetches its parts.
"""

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from bytelm.core.errors import UserError, first_line
from bytelm.core.files import write_whole
from bytelm.core.places import fetch, objects, remove, send
from bytelm.training.checkpoints.own_parts import is_part, own_parts
from bytelm.training.distributed import gather_json
from bytelm.training.run_directory import COMMIT

ARRAYS = ("params", "training")
"""Items that are fetched when they are read; the others are small."""
PAUSES = (1.0, 5.0, 30.0, 120.0, 300.0)
"""Seconds between two tries to send a file that a store does not take."""
POLL_SECONDS = 0.05
STORE_POLL_SECONDS = 0.5
VARIABLE = "BYTELM_STAGING"
"""Environment variable that names a folder for local copies, instead of that of temporary files."""


def whole_steps(folder: Path) -> list[int]:
    """The steps of the whole checkpoints at an address, in order."""
    found = (path.parent.name for path in folder.glob(f"*/{COMMIT}"))
    return sorted(int(name) for name in found if name.isdecimal())


class StagedCheckpoints:
    """The checkpoints at an address and their local copy.

    Args:
        folder: the address.
        local: the folder of the copy, which is empty.
        processes: how many write the checkpoints together; 1 for a process that only reads.
        shared: whether these processes share the copy.
    """

    def __init__(
        self, folder: Path, local: Path, *, processes: int = 1, shared: bool = True
    ) -> None:
        self.folder, self.local, self.shared = folder, local, shared
        self._part = jax.process_index() if processes > 1 else 0
        self._parts = processes
        self._whole: set[tuple[int, str]] = set()  # steps and items that are not fetched again
        self._sending: threading.Thread | None = None
        self._failure: Exception | None = None
        self._given_up = threading.Event()

    def fetch_small(self) -> None:
        """Makes a copy of all whole checkpoints without their arrays; for one process."""
        self.local.mkdir(parents=True, exist_ok=True)
        with self._store_errors("read"):
            for step in whole_steps(self.folder):
                source, target = self.folder / str(step), self.local / str(step)
                names = [name for name in objects(source) if name.split("/")[0] not in ARRAYS]
                fetch(source, target, names)

    def remove_torn(self) -> None:
        """Removes what is left of checkpoints that were being written; for the run's process 0."""
        if not self.folder.is_dir():
            return
        whole = set(whole_steps(self.folder))
        for path in list(self.folder.iterdir()):
            if path.name.isdecimal() and int(path.name) not in whole:
                remove(path)

    def fetch_item(self, step: int, item: str, arrays: Any = None) -> None:
        """Copies an item that is to be read.

        Args:
            arrays: with their shardings; None for an item without arrays.
        """
        if item not in ARRAYS or (step, item) in self._whole:
            return
        source, target = (place / str(step) / item for place in (self.folder, self.local))

        def copy() -> None:
            with self._store_errors("read"):
                names = self._share(objects(source))
                if not self.shared:
                    parts = [name for name in names if is_part(name)]
                    fetch(source, target, [name for name in names if not is_part(name)])
                    names = own_parts(target, parts, arrays)
                fetch(source, target, names)

        _together(copy) if self._parts > 1 else copy()
        self._whole.add((step, item))

    def send(self, step: int) -> None:
        """Starts to send a checkpoint that Orbax is writing; `wait` first for the one before."""
        if self.shared:
            self._whole |= {(step, item) for item in ARRAYS}
        self._sending = threading.Thread(target=self._send_when_written, args=(step,))
        self._sending.start()

    def give_up(self) -> None:
        """The checkpoint will not be written."""
        self._given_up.set()

    def wait(self) -> None:
        """Waits until the last checkpoint is whole at the address; UserError if it could not be."""
        if self._sending is not None:
            self._sending.join()
            self._sending = None
        failure, self._failure = self._failure, None
        with self._store_errors("written"):
            if failure is not None:
                raise failure

    def remove_old(self) -> None:
        """Removes the checkpoints that Orbax has removed from the copy."""
        for step in whole_steps(self.folder):
            if not (self.local / str(step)).is_dir():
                remove(self.folder / str(step), first=COMMIT)

    def forget(self, steps: list[int]) -> None:
        """Removes the copies of some checkpoints."""
        for step in steps:
            shutil.rmtree(self.local / str(step), ignore_errors=True)
        self._whole = {(step, item) for step, item in self._whole if step not in steps}

    def close(self) -> None:
        """Removes the copy."""
        if self._part == 0 or not self.shared:
            atexit.unregister(self.close)
            shutil.rmtree(self.local.parent, ignore_errors=True)

    def _send_when_written(self, step: int) -> None:
        source, target = self.local / str(step), self.folder / str(step)
        while not source.is_dir():  # Orbax renames it when it is whole
            if self._given_up.wait(POLL_SECONDS):
                return
        try:
            files = sorted(file for file in source.rglob("*") if file.is_file())
            names = [str(file.relative_to(source)) for file in files]
            names.remove(COMMIT)
            _patiently(lambda: send(source, target, self._written(names)))
            self._agree(target)
            if self._part == 0:
                _patiently(lambda: send(source, target, [COMMIT]))
                self.remove_old()
        except Exception as error:  # of the store or the disk
            self._failure = error

    def _share(self, names: list[str]) -> list[str]:
        """The files that this process fetches."""
        return names[self._part :: self._parts] if self.shared else names

    def _written(self, names: list[str]) -> list[str]:
        """The files that this process sends; what describes arrays is the same in all copies."""
        if self.shared or self._part == 0:
            return self._share(names)
        return [name for name in names if name.split("/")[0] in ARRAYS]

    def _agree(self, target: Path) -> None:
        """Says that this process has sent its files; process 0 waits for the others."""
        marks = [target / f"sent_by_{part}" for part in range(1, self._parts)]
        if self._part:
            _patiently(lambda: write_whole(marks[self._part - 1], ""))
            return
        missing = marks
        while missing := [mark for mark in missing if not mark.exists()]:
            time.sleep(STORE_POLL_SECONDS)
        for mark in marks:
            mark.unlink()

    @contextlib.contextmanager
    def _store_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the store or the disk
            end = "the run stops; continue with --resume" if what == "written" else "try again"
            raise UserError(
                f"a checkpoint in {self.folder} could not be {what}: {first_line(error)}; {end}."
            ) from error


def staged_for_run(folder: Path) -> StagedCheckpoints:
    """The checkpoints of a run that is trained here; all its processes call it."""
    name = hashlib.blake2b(str(folder).encode(), digest_size=8).hexdigest()
    home = Path(os.environ.get(VARIABLE) or tempfile.gettempdir()) / f"bytelm-{os.getuid()}-{name}"
    shared = _is_shared(home.parent)
    if not shared:
        home = home.with_name(f"{home.name}-{jax.process_index()}")
    processes = jax.process_count()
    staged = StagedCheckpoints(folder, home / folder.name, processes=processes, shared=shared)
    is_main = jax.process_index() == 0

    def make() -> None:
        atexit.register(staged.close)
        shutil.rmtree(home, ignore_errors=True)  # of a run that was killed
        staged.fetch_small()

    _together(staged.remove_torn if is_main else None)
    _together(make if is_main or not shared else None)
    return staged


def _together(action: Callable[[], None] | None) -> None:
    """Does what this process has to do; all processes call it, and all fail if one does."""
    failure = None
    try:
        if action is not None:
            action()
    except Exception as error:  # of the store or the disk
        failure = error
    failures = gather_json(None if failure is None else first_line(failure))
    if failure is not None:
        raise failure
    if any(failures):
        raise UserError(f"{next(filter(None, failures)).rstrip('.')} (in another process).")


def _is_shared(folder: Path) -> bool:
    """Whether all processes of the run see the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f"bytelm-{gather_json(uuid.uuid4().hex)[0]}"
    if jax.process_index() == 0:
        token.touch()
    gather_json(None)  # the other processes wait for it
    shared = all(gather_json(token.exists()))
    if jax.process_index() == 0:
        token.unlink()
    return shared


@contextlib.contextmanager
def staged_for_reading(folder: Path) -> Iterator[StagedCheckpoints]:
    """The checkpoints of a run to read from; the copy is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="bytelm-") as home:
        staged = StagedCheckpoints(folder, Path(home) / folder.name)
        staged.fetch_small()
        yield staged


def _patiently(action: Callable[[], None]) -> None:
    """Tries again after pauses: a store may be out of reach for minutes."""
    for pause in PAUSES:
        try:
            return action()
        except Exception:  # of the store
            time.sleep(pause)
    return action()
