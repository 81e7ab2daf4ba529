"""The directory of a training run: its name, its lock, its files, and where they come from."""

import contextlib
import fcntl
import importlib.metadata
import itertools
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax

from bytelm.core.errors import UserError, first_line
from bytelm.core.files import make_folder, write_whole
from bytelm.core.locks import OBJECT_POLL_SECONDS, is_still
from bytelm.core.object_lock import ObjectLock
from bytelm.core.places import copy_file, is_address, is_of_store, move, place, remove
from bytelm.data.carried import carry
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import all_packed, run_text
from bytelm.data.text_record import WAITING, TextRecord, load_record, make_record
from bytelm.training.experiment import ExperimentConfig, to_json

CONFIG = "config.json"
"""The resolved config."""
LOCK = ".lock"
"""Locked by the process that writes the directory."""
COMMIT = "commit_success.txt"
"""File that Orbax writes into a checkpoint when it is whole; at an address it is the last one."""
_NOT_COPIED = (LOCK, "wandb_id")
"""Files that belong to one run directory alone."""
_PACKAGES = "bytelm jax jaxlib flax optax orbax-checkpoint grain tensorflow-datasets numpy".split()
"""Packages whose versions are recorded."""

logger = logging.getLogger(__name__)


class InUseError(UserError):
    """Another process has the run directory."""


@contextlib.contextmanager
def lock(run_dir: Path, *, patient: bool = True) -> Iterator[None]:
    """Locks an existing run directory against other processes inside the context.

    The operating system releases the lock when the process ends in any way, so no lock is stale. In
    a run of several processes, only process 0 takes it. There is a warning if the file system has
    no locks, such as on some clusters. The file names its process until the context ends: a name
    that is left is of a process that was killed. At an address the lock is an object, which its
    process has to renew (`core/object_lock.py`): that of a process that was killed is waited for,
    unless the caller is not `patient` and counts it as in use.

    Raises:
        InUseError: if another process has the run directory.
        UserError: if it cannot be written.
    """
    path = run_dir / LOCK
    if is_address(path):
        with _object_lock(run_dir, path, patient):
            yield
        return
    with _locked_file(run_dir, path) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)


def _locked_file(run_dir: Path, path: Path) -> IO[str]:
    while True:
        try:
            path.touch()
            file = path.open("r+")
        except OSError as error:
            raise UserError(
                f"run directory {run_dir} cannot be written ({error.strerror}); "
                "choose another with --run-dir"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise _in_use(run_dir, file.read() or "another process") from None
        except OSError as error:
            warnings.warn(
                f"run directory {run_dir} is on a file system without locks ({error.strerror}): "
                "take care that no second process writes it",
                stacklevel=4,
            )
            return file
        if is_still(file.fileno(), path):
            return file
        file.close()  # another process has removed it, and a third may lock a new one


@contextlib.contextmanager
def _object_lock(run_dir: Path, path: Path, patient: bool) -> Iterator[None]:
    lock = ObjectLock(path)
    said = False
    try:
        while not lock.take():
            if lock.holder_lives or not patient:
                raise _in_use(run_dir, lock.holder)
            if not said:
                logger.warning("finding out whether %s still uses %s", lock.holder, run_dir)
            said = True
            time.sleep(OBJECT_POLL_SECONDS)
    except Exception as error:
        if not (is_of_store(error) or isinstance(error, OSError)):
            raise
        raise UserError(
            f"run directory {run_dir} cannot be written ({first_line(error)}); choose another "
            "with --run-dir"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _in_use(run_dir: Path, holder: str) -> InUseError:
    return InUseError(
        f"run directory {run_dir} is in use by {holder}; wait until that ends, or choose another "
        "with --run-dir"
    )


def unused_directory(base: Path) -> Path:
    """The first of `base`, `base-2`, `base-3`, ... that does not exist."""
    later = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([base], later) if not _exists(path))


def _exists(path: Path) -> bool:
    return path.exists() if is_address(path) else os.path.lexists(path)


def new_run_directory(base: Path) -> Path:
    """Creates and returns the first of `base`, `base-2`, `base-3`, ... that does not exist.

    Two processes that call it at once get different directories; at an address, where directories
    cannot be created, they may get the same one, which only one of them can then lock.
    """
    if is_address(base):
        return unused_directory(base)
    base.parent.mkdir(parents=True, exist_ok=True)
    while True:
        candidate = unused_directory(base)
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            pass  # another process was faster


def remove_if_unused(run_dir: Path) -> None:
    """Removes a run directory that holds nothing but the lock; at an address there is then none."""
    if is_address(run_dir):
        return
    if [path.name for path in run_dir.iterdir()] in ([], [LOCK]):
        (run_dir / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process may lock it again at once
            run_dir.rmdir()


def write_files(
    run_dir: Path, config: ExperimentConfig, facts: dict[str, Any], text: TextRecord, data: OpenData
) -> None:
    """Writes the files of a run; the config comes last, because it marks the directory as a run."""
    text.save(run_dir)
    carry(run_dir, data.tokenizer, data.unigram)
    write_whole(run_dir / "run.json", json.dumps(facts, indent=2) + "\n")
    write_whole(run_dir / CONFIG, to_json(config))


def text_trained_on(
    run_dir: Path, config: ExperimentConfig, data: OpenData, *, resuming: bool
) -> TextRecord:
    """The record of all text that a run's parameters are trained on; UserError for a bad source.

    It includes the text before the run was resumed, and the text of `train.initial`.
    """
    record = run_text(data)
    earlier = run_dir if resuming else config.train.initial
    if earlier is not None:
        unknown = make_record([], complete=False, sources=[])
        record = (load_record(place(earlier)) or unknown).followed_by(record)
    return record


def complete_record(run_dir: Path, data: OpenData) -> None:
    """Adds the text of shards that were packed after the run began, if all are packed now."""
    record = load_record(run_dir)
    waits = record is not None and any(source.get(WAITING) for source in record.sources)
    if record is not None and waits and all_packed(data):
        record.followed_by(run_text(data)).save(run_dir)


def provenance() -> dict[str, Any]:
    """Code, packages, machine and command line, as JSON values; never fails.

    `git` is `{"revision": 40 hex digits, "dirty": bool}`, or None outside a checkout; a package
    that is not installed has version None; `devices` counts the devices of all processes by kind.
    """
    return {
        "git": _git(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": dict(sorted(Counter(device.device_kind for device in jax.devices()).items())),
        "processes": jax.process_count(),
        "command": sys.argv,
    }


def _git() -> dict[str, Any] | None:
    def run(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        # An installed package may lie inside the checkout of another project.
        run("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "revision": run("rev-parse", "HEAD"),
            "dirty": bool(run("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def set_unreadable_aside(folder: Path, steps: list[int]) -> None:
    """Moves unreadable checkpoints out of `folder`, each to a directory next to it."""
    for step in sorted(steps, reverse=True):
        aside = new_run_directory(folder.with_name(f"unreadable_checkpoint_{step}"))
        move(folder / str(step), aside, last=COMMIT)


def set_aside_as_run(folder: Path, steps: list[int], start: int) -> Path:
    """Makes a run of the checkpoints after the step `start`; returns its directory.

    This is inside the directory of the run, and has copies of its files, such as config and
    metrics, so it can be evaluated and resumed. The latest checkpoint is moved first, so that the
    rest is a whole run at any moment.
    """
    run = folder.parent
    aside = new_run_directory(run / f"after_step_{start}")
    make_folder(aside / folder.name)
    try:
        for file in run.iterdir():
            if file.is_file() and file.name not in _NOT_COPIED:
                copy_file(file, aside / file.name)
    except OSError:  # such as a full disk; nothing has been moved yet
        remove(aside)
        raise
    for step in sorted(steps, reverse=True):
        move(folder / str(step), aside / folder.name / str(step), last=COMMIT)
    return aside
