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

from bytelm.core.atomic_write import write_whole
from bytelm.core.errors import UserError
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
    """Keeps other processes out of an existing run directory while the context is entered.

    The operating system drops the lock with the process that holds it, however that ends, so
    none is ever stale. In a run of several processes, process 0 alone takes it. Where the file
    system has no locks (some cluster mounts) a warning says so and nothing is kept out.

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

    Two processes that ask at once get different directories.
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
    """Removes a run directory in which nothing has been written but the lock."""
    if [path.name for path in run_dir.iterdir()] in ([], [LOCK]):
        (run_dir / LOCK).unlink(missing_ok=True)
        run_dir.rmdir()


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        run_dir: where they are.
        config: of the run.
        facts: as `run_facts` gives them.
        text: what the parameters are trained on.
        tokenizer, unigram: that the text is read with.
    """

    run_dir: Path
    config: ExperimentConfig
    facts: dict[str, Any]
    text: TextRecord
    tokenizer: Tokenizer | None
    unigram: Unigram | None

    def write(self) -> None:
        """Writes them; the config, by which a directory is known to hold a run, last."""
        self.text.save(self.run_dir)
        carry(self.run_dir, self.tokenizer, self.unigram)
        write_facts(self.facts, self.run_dir)
        write_whole(self.run_dir / CONFIG, to_json(self.config))

    def restore_if_removed(self) -> None:
        """Writes them again if somebody has removed the directory."""
        if not (self.run_dir / CONFIG).exists():
            self.write()


def text_trained_on(
    run_dir: Path, config: ExperimentConfig, data: OpenData, *, resuming: bool
) -> TextRecord:
    """The record of the text that a run's parameters are trained on when it ends.

    It holds what the run read before, where it is resumed with other text, and what the run read
    whose parameters it starts from.

    Raises:
        UserError: for a bad source.
    """
    record = run_text(data)
    earlier = run_dir if resuming else config.train.initial
    if earlier is not None:
        unknown = make_record([], complete=False, sources=[])
        record = (load_record(Path(earlier)) or unknown).followed_by(record)
    return record
