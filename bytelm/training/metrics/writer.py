"""Writing numbers and samples of a run to files, TensorBoard and Weights & Biases; reading them."""

import contextlib
import functools
import html
import io
import json
import math
import tempfile
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.files import write_whole
from bytelm.core.growing_file import GrowingFile, GrowingObject, growing_file
from bytelm.core.places import is_address


class MetricsWriter:
    """Writes the numbers and texts of a run into its directory; a context manager.

    `metrics.jsonl` and `samples.jsonl` are always written: a line for each call, flushed at once.
    If something cannot be written, such as on a full disk, there is one warning; lines are kept,
    and written when there is space. At an address, files are written again as a whole from time to
    time (`core/growing_file.py`), and before each checkpoint. Only process 0 has a writer.

    Args:
        config: the resolved config as JSON values, for Weights & Biases.
        start_step: of the checkpoint to resume from; lines of later steps, which the run will write
            again, are cut off.
        tensorboard: whether to write event files for TensorBoard into `run_dir/tensorboard`.
        wandb_project: project of Weights & Biases, or None. A resumed run keeps its id, which is
            stored in `run_dir/wandb_id`.

    Raises:
        UserError: if a project is given, and the package wandb is not installed.
    """

    def __init__(
        self,
        run_dir: Path,
        config: dict[str, Any],
        *,
        start_step: int = 0,
        tensorboard: bool = True,
        wandb_project: str | None = None,
    ) -> None:
        wandb = _Wandb(run_dir, config, wandb_project) if wandb_project else None
        self._sinks: list[_Sink] = [_JsonFiles(run_dir, start_step)]
        self._failed: set[str] = set()
        if tensorboard:
            from bytelm.training.metrics.tensorboard import TensorBoard

            self._try(
                "tensorboard",
                lambda: self._sinks.append(TensorBoard(run_dir / "tensorboard", start_step)),
            )
        if wandb:
            self._sinks.append(wandb)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records scalars (Python numbers, or arrays of one element) by name.

        Values that are not finite are null in `metrics.jsonl`.
        """
        scalars = {name: np.asarray(value).item() for name, value in values.items()}
        for sink in self._sinks:
            self._try(sink.name, functools.partial(sink.numbers, step, scalars))

    def write_text(self, step: int, tag: str, text: str) -> None:
        """Records a text, such as a sample of the model, under a tag."""
        for sink in self._sinks:
            self._try(sink.name, functools.partial(sink.text, step, tag, text))

    def flush(self) -> None:
        """Writes what is kept back, at an address or because it could not be written."""
        for sink in self._sinks:
            self._try(sink.name, sink.flush)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for sink in self._sinks:
            self._try(sink.name, sink.close)

    def _try(self, name: str, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if name not in self._failed:
                warnings.warn(
                    f"{name} cannot be written now ({error.strerror or error}); the run goes on",
                    stacklevel=3,
                )
            self._failed.add(name)


class _Sink(Protocol):
    """A place to write to; its methods raise OSError if they cannot write."""

    name: str

    def numbers(self, step: int, values: Mapping[str, float]) -> None: ...

    def text(self, step: int, tag: str, text: str) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _JsonFiles:
    """Files of lines `{"step": ..., ...}`, cut at the step that a run resumes from."""

    name = "metrics.jsonl"

    def __init__(self, run_dir: Path, last_step: int) -> None:
        self._metrics = _lines_until(run_dir / "metrics.jsonl", last_step)
        self._samples = _lines_until(run_dir / "samples.jsonl", last_step)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._metrics.append(_line(step, finite))

    def text(self, step: int, tag: str, text: str) -> None:
        self._samples.append(_line(step, {tag: text}))

    def flush(self) -> None:
        self._samples.flush()
        self._metrics.flush()

    def close(self) -> None:
        with contextlib.closing(self._samples):
            self._metrics.close()


class _Wandb:
    """A run of Weights & Biases, resumed under the id in the run directory."""

    name = "Weights & Biases"

    def __init__(self, run_dir: Path, config: dict[str, Any], project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "logging to Weights & Biases needs the package wandb; install it with "
                "`pip install wandb`, or leave the project unset"
            ) from error
        id_file = run_dir / "wandb_id"
        if not id_file.exists():
            write_whole(id_file, uuid.uuid4().hex)
        folder = tempfile.mkdtemp(prefix="bytelm-wandb-") if is_address(run_dir) else str(run_dir)
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            id=id_file.read_text(),
            resume="allow",
            dir=folder,
            config=config,
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._call(lambda: self._run.log(dict(values), step=step))

    def text(self, step: int, tag: str, text: str) -> None:
        page = self._wandb.Html(f"<pre>{html.escape(text)}</pre>")
        self._call(lambda: self._run.log({tag: page}, step=step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._call(self._run.finish)

    def _call(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # of wandb, such as without a network
            raise OSError(str(error)) from error


def _line(step: int, values: Mapping[str, Any]) -> bytes:
    return json.dumps({"step": step, **values}).encode() + b"\n"


def _lines_until(path: Path, last_step: int) -> GrowingFile | GrowingObject:
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [
            line
            for line in lines
            if line.endswith(b"\n") and (found := _record(line)) and found["step"] <= last_step
        ]
        write_whole(path, b"".join(kept))
    return growing_file(path)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file such as metrics.jsonl, without damaged lines; OSError if unreadable."""
    return [record for line in path.read_bytes().splitlines() if (record := _record(line))]


def read_last_records(path: Path, size: int) -> list[dict[str, Any]]:
    """The records in the last `size` bytes of such a file; OSError if unreadable."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - size))
        return [record for line in file.read(size).splitlines() if (record := _record(line))]


def _record(line: bytes) -> dict[str, Any] | None:
    """None for a line that a kill or a full disk cut off, or that is damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None
