"""Event files for TensorBoard, written without a thread.

tensorboardX makes the events. Its own writer is a thread that dies if the disk is full or the clock
is set back, and the run would then wait forever.
"""

import html
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from bytelm.core.files import make_folder
from bytelm.core.growing_file import growing_file


class TensorBoard:
    """Writes a new event file into `folder`, which is created if needed.

    A run that resumes from `start_step` hides older events of later steps.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, start_step: int) -> None:
        make_folder(folder)
        place = f"{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        self._file = growing_file(folder / f"events.out.tfevents.{place}")
        self._head = _record(start_step + 1, file_version="brain.Event:2")
        self._head += _record(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Records scalars by name."""
        parts = [summary.scalar(name, value).value for name, value in values.items()]
        self._add(step, summary=Summary(value=[value for part in parts for value in part]))

    def text(self, step: int, tag: str, text: str) -> None:
        """Records a text with its line breaks."""
        self._add(step, summary=summary.text(tag, f"<pre>{html.escape(text)}</pre>"))

    def flush(self) -> None:
        """Writes what is kept back."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        head, self._head = self._head, b""
        self._file.append(head + _record(step, **content))


def _record(step: int, **content: Any) -> bytes:
    event = Event(step=step, wall_time=time.time(), **content).SerializeToString()
    length = struct.pack("<Q", len(event))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, event))
    return length + next(checks) + event + next(checks)
