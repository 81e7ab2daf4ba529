"""`bytelm generate --prompts FILE --output FILE`: a file of prompts, and one of continuations.

Both have a line of JSON for each prompt, in the same order. While the work goes on, a file next to
the output says of what it is; a stopped command goes on after the last whole line if nothing has
changed.
"""

import fcntl
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytelm.core.errors import UserError
from bytelm.core.files import check_new_file, write_whole
from bytelm.core.texts import text_bytes
from bytelm.inference.batching import Prompt

FIELDS = {"prompt", "id", "max_bytes"}
NO_PROMPT = Prompt(b"", 0, 0)
SECONDS = 1.0
"""How often finished lines are forced to the disk."""


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts, which can be read several times.

    Attributes:
        max_bytes: longest continuation of a prompt that does not say its own.
        count: of its prompts.
        digest: of its content.
        longest: the prompt that may take most bytes, with its continuation.
    """

    path: Path
    max_bytes: int
    count: int = 0
    digest: str = ""
    longest: Prompt = NO_PROMPT

    @classmethod
    def checked(cls, path: Path, max_bytes: int) -> "PromptFile":
        """The file, all of whose lines are right; else raises UserError."""
        file, hashed = cls(path, max_bytes), hashlib.blake2b(digest_size=16)
        try:
            count, longest = 0, file.longest
            for prompt, _ in file.prompts(watch=hashed.update):
                count, longest = count + 1, max(prompt, longest, key=lambda x: x.most)
        except OSError as error:
            raise UserError(f"--prompts {path} cannot be read: {error.strerror}.") from error
        return cls(path, max_bytes, count, hashed.hexdigest(), longest)

    def prompts(
        self, first: int = 0, watch: Callable[[bytes], None] = lambda line: None
    ) -> Iterator[tuple[Prompt, dict[str, Any]]]:
        """The prompts from number `first` on, each with what its output line begins with."""
        number = 0
        with self.path.open("rb") as file:
            for line_number, line in enumerate(file, start=1):
                watch(line)
                if not line.strip():
                    continue
                if number >= first:
                    yield self._prompt(line, number, f"{self.path}:{line_number}")
                number += 1

    def _prompt(self, line: bytes, number: int, place: str) -> tuple[Prompt, dict[str, Any]]:
        try:
            value = json.loads(line)
        except ValueError as error:
            reason = f"column {error.colno}" if isinstance(error, json.JSONDecodeError) else "UTF-8"
            raise UserError(f"{place} is not valid JSON ({reason}).") from None
        if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
            raise UserError(f'{place} has no text "prompt"; write lines like {{"prompt": "It"}}.')
        if unknown := sorted(value.keys() - FIELDS):
            raise UserError(f"{place} has the field {unknown[0]!r}; fields are {sorted(FIELDS)}.")
        most = value.get("max_bytes", self.max_bytes)
        if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most < 2**31:
            raise UserError(f"{place} has max_bytes {most!r}; it must be from 0 to below 2**31.")
        try:
            text = text_bytes(value["prompt"])
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        kept = {"id": value["id"]} if "id" in value else {}
        return Prompt(text, most, number), kept


class Continuations:
    """The file of continuations that a command writes, from the start or where another stopped.

    A context that closes it.

    Attributes:
        done: lines that were there before.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]):
        """Opens the file.

        Args:
            job: of what it is, ready for JSON; another one is refused.

        Raises:
            UserError: if it exists and is finished, of another job, or being written.
        """
        self._path = path
        self._job = path.with_name(f"{path.name}.unfinished")
        if self._job.exists() and path.exists():
            self._check(job)
        else:
            check_new_file(path)
            write_whole(self._job, json.dumps(job, indent=1))
        self._file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"--output {path} is being written by another command.") from None
        self.done = self._cut_off()
        self._synced = time.monotonic()

    def _check(self, job: Mapping[str, Any]) -> None:
        try:
            begun = json.loads(self._job.read_bytes())
        except (OSError, ValueError):
            begun = {}
        for name, value in job.items():
            if begun.get(name) != value:
                raise UserError(
                    f"{self._path} was begun with another {name}; go on with the same, or choose "
                    "another --output."
                )

    def _cut_off(self) -> int:
        """Removes a line that was not written whole; returns how many there are."""
        self._file.seek(0)
        lines, size = 0, 0
        for line in self._file:
            if line.endswith(b"\n"):
                lines, size = lines + 1, size + len(line)
        self._file.truncate(size)
        return lines

    def append(self, kept: Mapping[str, Any], text: bytes) -> None:
        """Writes a line; bytes that are no UTF-8 become the escapes of lone surrogates."""
        value = {**kept, "text": text.decode(errors="surrogateescape")}
        line = memoryview(json.dumps(value).encode() + b"\n")
        while line:
            line = line[self._file.write(line) or 0 :]
        if time.monotonic() - self._synced > SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def finish(self) -> None:
        """Says that all lines are there."""
        os.fsync(self._file.fileno())
        self._job.unlink(missing_ok=True)

    def __enter__(self) -> "Continuations":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def write_file(
    file: PromptFile,
    output: Continuations,
    complete: Callable[[Iterator[Prompt]], Iterator[bytes]],
    done: Callable[[int], None],
) -> None:
    """Writes the continuations that are not there yet; `done` is told of each."""
    read, own = itertools.tee(file.prompts(output.done))
    for text, (_, kept) in zip(complete(prompt for prompt, _ in read), own, strict=True):
        output.append(kept, text)
        done(1)
    output.finish()
