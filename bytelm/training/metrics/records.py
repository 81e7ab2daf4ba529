"""Reading what a run has recorded, where some of it may be torn or damaged."""

import json
from pathlib import Path
from typing import Any


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file such as metrics.jsonl, in order; lines that are none are left out.

    Raises:
        OSError: if it cannot be read.
    """
    found = (_record(line) for line in path.read_bytes().splitlines())
    return [record for record in found if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None
