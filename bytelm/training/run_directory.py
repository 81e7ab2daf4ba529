"""The directory that a training run writes: its name, its lock, and its files."""

import contextlib
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytelm.core.errors import UserError
from bytelm.core.files import write_whole
from bytelm.data.carried import carry
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import run_text
from bytelm.data.text_record import TextRecord, load_record, make_record
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.tokenizers.unigram import Unigram
from bytelm.training.experiment import ExperimentConfig, to_json
from bytelm.training.header import write_facts

CONFIG = "config.json"
"""File of a run directory that holds the resolved config."""
LOCK = ".lock"
"""File that the process which writes a run directory holds locked."""


@contextlib.contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Locks an existing run directory against other processes while the context is entered.

    The operating system releases the lock when the process ends, however it ends, so no lock is
    ever stale. In a run of several processes, only process 0 takes it. Where the file system has no
    locks (some cluster mounts), a warning says so.

    Raises:
      UserError: another process has the run directory, or it cannot be written.
    """
    path = run_dir / LOCK
    try:
        path.touch()
    except OSError as error:
        raise UserError(
            f"run directory {run_dir} cannot be written ({error.strerror}); "
            "choose another with --run-dir"
        ) from error
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read() or "another process"
            raise UserError(
                f"run directory {run_dir} is in use by {holder}; "
                "wait until that ends, or choose another with --run-dir"
            ) from None
        except OSError as error:
            warnings.warn(
                f"run directory {run_dir} is on a file system without locks ({error.strerror}): "
                "take care that no second process writes it",
                stacklevel=3,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def unused_directory(base: Path) -> Path:
    """The first of `base`, `base-2`, `base-3`, ... that does not exist."""
    candidate, number = base, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return candidate


def new_run_directory(base: Path) -> Path:
    """Creates and returns the first of `base`, `base-2`, `base-3`, ... that does not exist.

    Two processes that call it at once get different directories.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    while True:
        candidate = unused_directory(base)
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            pass  # another process was faster


def remove_if_unused(run_dir: Path) -> None:
    """Removes a run directory that holds nothing but the lock."""
    if [path.name for path in run_dir.iterdir()] in ([], [LOCK]):
        (run_dir / LOCK).unlink(missing_ok=True)
        run_dir.rmdir()


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        run_dir: where they are.
        config: of the run.
        facts: from `run_facts`.
        text: that the parameters are trained on.
        tokenizer, unigram: that the text is read with.
    """

    run_dir: Path
    config: ExperimentConfig
    facts: dict[str, Any]
    text: TextRecord
    tokenizer: Tokenizer | None
    unigram: Unigram | None

    def write(self) -> None:
        """Writes them; the config last, since it marks the directory as a run."""
        self.text.save(self.run_dir)
        carry(self.run_dir, self.tokenizer, self.unigram)
        write_facts(self.facts, self.run_dir)
        write_whole(self.run_dir / CONFIG, to_json(self.config))

    def restore_if_removed(self) -> None:
        """Writes them again if the directory was removed."""
        if not (self.run_dir / CONFIG).exists():
            self.write()


def text_trained_on(
    run_dir: Path, config: ExperimentConfig, data: OpenData, *, resuming: bool
) -> TextRecord:
    """The record of all text that a run's parameters will have been trained on.

    It includes what the run read before it was resumed with other text, and what the run read that
    `train.initial` names.

    Raises:
        UserError: for a bad source.
    """
    record = run_text(data)
    earlier = run_dir if resuming else config.train.initial
    if earlier is not None:
        unknown = make_record([], complete=False, sources=[])
        record = (load_record(Path(earlier)) or unknown).followed_by(record)
    return record
