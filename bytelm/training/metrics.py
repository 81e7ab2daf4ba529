"""What a run writes down: numbers and sample texts, for files, TensorBoard and Weights & Biases."""

import html
import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from bytelm.errors import UserError


class MetricsWriter:
    """Writes the numbers and texts of a run into its directory; a context manager.

    `metrics.jsonl` and `samples.jsonl` are always written, a line for each call, flushed at
    once. What an interrupted run wrote after the checkpoint that it resumes from is
    cut off, since the resumed run writes it again. In a run of several processes, process 0
    alone has a writer.

    Args:
      run_dir: an existing directory.
      config: the resolved config as plain JSON values, shown by Weights & Biases.
      start_step: the step of the checkpoint resumed from; lines of later steps are cut off.
      tensorboard: whether to write event files for TensorBoard into `run_dir/tensorboard`.
      wandb_project: the Weights & Biases project to log to, or None for none. A resumed run
        goes on under the same id, which is kept in `run_dir/wandb_id`.

    Raises:
      UserError: a project is given, but the package wandb is not installed.
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
        self._wandb = _start_wandb(run_dir, config, wandb_project) if wandb_project else None
        self._metrics = _JsonLines(run_dir / "metrics.jsonl", start_step)
        self._samples = _JsonLines(run_dir / "samples.jsonl", start_step)
        self._tensorboard = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(
                str(run_dir / "tensorboard"), purge_step=start_step + 1
            )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records scalars (Python numbers, or arrays of one element) under their names.

        Values that are not finite become null in `metrics.jsonl`, as JSON has no word for them.
        """
        scalars = {name: np.asarray(value).item() for name, value in values.items()}
        self._metrics.append(
            step, {name: v if math.isfinite(v) else None for name, v in scalars.items()}
        )
        if self._tensorboard:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(scalars, step=step)

    def write_text(self, step: int, tag: str, text: str) -> None:
        """Records a text, such as a sample of the model, under a tag."""
        self._samples.append(step, {tag: text})
        preformatted = f"<pre>{html.escape(text)}</pre>"
        if self._tensorboard:
            self._tensorboard.add_text(tag, preformatted, step)
        if self._wandb:
            import wandb

            self._wandb.log({tag: wandb.Html(preformatted)}, step=step)

    def close(self) -> None:
        """Flushes and closes everything."""
        self._metrics.close()
        self._samples.close()
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _JsonLines:
    """A file of lines `{"step": ..., ...}` that grows, cut at the step a run resumes from."""

    def __init__(self, path: Path, last_step: int) -> None:
        if path.exists():
            kept = path.with_name(path.name + ".kept")
            with path.open("rb") as old, kept.open("wb") as new:
                new.writelines(line for line in old if _is_kept(line, last_step))
            os.replace(kept, path)
        self._file = path.open("a", buffering=1)  # by lines

    def append(self, step: int, values: dict[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def close(self) -> None:
        self._file.close()


def _is_kept(line: bytes, last_step: int) -> bool:
    try:
        return line.endswith(b"\n") and bool(json.loads(line)["step"] <= last_step)
    except (ValueError, TypeError, KeyError):  # torn by a kill or a full disk, or damaged
        return False


def _start_wandb(run_dir: Path, config: dict[str, Any], project: str) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "logging to Weights & Biases needs the package wandb; install it with "
            "`pip install wandb`, or leave the project unset"
        ) from error
    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex)
    return wandb.init(
        project=project,
        name=run_dir.name,
        id=id_file.read_text(),
        resume="allow",
        dir=str(run_dir),
        config=config,
    )
