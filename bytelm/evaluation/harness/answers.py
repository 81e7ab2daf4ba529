"""Answers to requests, kept in a file until all are there, so that a stop loses little."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bytelm.core.whole_lines import WholeLines


class Answers:
    """Answers by key. A context that closes their file.

    Args:
        path: of the file, a line of JSON for each answer; None to keep them in memory alone.
        model: of what the answers depend on besides the requests, ready for JSON; answers of
            another model in the file do not count.
    """

    def __init__(self, path: Path | None = None, model: Any = None):
        self._model = model
        self._found: dict[str, Any] = {}
        self._asked: set[str] = set()
        self._lines = None if path is None else WholeLines(path)
        for key, answer in self._read():
            self._found[key] = answer

    def _read(self) -> Iterator[tuple[str, Any]]:
        for line in self._lines.read() if self._lines else ():
            try:
                key, answer = json.loads(line)
            except ValueError:
                continue
            yield key, answer

    def keys(self, kind: str, requests: Sequence[Any], *, repeat: bool) -> list[str]:
        """The keys of requests of a kind; with `repeat`, equal ones have different keys."""
        times: dict[str, int] = {}
        keys = []
        for request in requests:
            text = json.dumps([self._model, kind, request], sort_keys=True, default=str)
            key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            number = times[key] = times.get(key, -1) + 1
            keys.append(f"{key}-{number}" if repeat else key)
        self._asked.update(keys)
        return keys

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def __setitem__(self, key: str, answer: Any) -> None:
        self._found[key] = answer
        if self._lines:
            self._lines.append(json.dumps([key, answer]).encode())

    def finish(self) -> None:
        """Removes the file, unless it has answers that nobody asked for: a longer evaluation's."""
        if self._lines and self._found.keys() <= self._asked:
            self._lines.path.unlink(missing_ok=True)

    def __enter__(self) -> "Answers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._lines:
            self._lines.__exit__(*error)
