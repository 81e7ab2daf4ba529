"""`bytelm generate --prompts FILE --output FILE`: a file of prompts, and one of continuations.

Both have a line of JSON for each prompt, in the same order. While the work goes on, a file next to
the output says of what it is and holds continuations that wait for earlier ones, so that a stopped
command loses only the texts that it was writing. It goes on if nothing has changed.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytelm.core.errors import UserError
from bytelm.core.files import check_new_file, write_whole
from bytelm.core.texts import text_bytes
from bytelm.core.whole_lines import WholeLines
from bytelm.inference.batching import Prompt

FIELDS = {"prompt", "id", "max_bytes"}
DIGEST = 8
"""Bytes of the digest of a line."""


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts, which can be read several times and must stay as it is.

    Attributes:
        max_bytes: longest continuation of a prompt that does not say its own.
        count: of its prompts.
        largest: the prompt that may take most bytes with its continuation; None without prompts.
        lines: the digests of its lines, one after another; None while it is checked.
    """

    path: Path
    max_bytes: int
    count: int = 0
    largest: Prompt | None = None
    lines: bytes | None = None

    @classmethod
    def checked(cls, path: Path, max_bytes: int) -> "PromptFile":
        """The file, all of whose lines are right; else raises UserError."""
        lines, count, largest = bytearray(), 0, None
        try:
            if path.exists() and not path.is_file():
                raise UserError(
                    f"--prompts {path} is no file that can be read twice; write the prompts into "
                    "one."
                )
            for prompt, _ in cls(path, max_bytes).prompts(lines):
                count += 1
                largest = max(largest or prompt, prompt, key=_most_bytes)
        except OSError as error:
            reason = error.strerror or "it is not there"  # as of an object
            raise UserError(f"--prompts {path} cannot be read: {reason}.") from error
        return cls(path, max_bytes, count, largest, bytes(lines))

    @property
    def digest(self) -> str:
        """Of its content."""
        return _digest(self.lines or b"").hex()

    def prompts(self, lines: bytearray | None = None) -> Iterator[tuple[Prompt, dict[str, Any]]]:
        """The prompts, each with what its output line begins with.

        Args:
            lines: gets the digests of the lines.

        Raises:
            UserError: at a line that is wrong, or other than it was when it was checked.
        """
        lines = bytearray() if lines is None else lines
        number = 0
        with self.path.open("rb") as file:
            for line_number, line in enumerate(file, start=1):
                place, start = f"{self.path}:{line_number}", len(lines)
                lines += _digest(line)
                if self.lines is not None and self.lines[start : start + DIGEST] != lines[start:]:
                    raise self._changed(place)
                if not line.strip():
                    continue
                yield self._prompt(line, number, place)
                number += 1
        if self.lines is not None and len(self.lines) != len(lines):
            raise self._changed(f"the end of {self.path}")

    def _changed(self, place: str) -> UserError:
        return UserError(
            f"{place} has changed since the command began; put it back as it was and go on, or "
            "choose another --output."
        )

    def _prompt(self, line: bytes, number: int, place: str) -> tuple[Prompt, dict[str, Any]]:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{place} is not valid JSON (column {error.colno}).") from None
        except UnicodeDecodeError:
            raise UserError(f"{place} is not valid JSON (UTF-8).") from None
        except (ValueError, RecursionError):
            raise UserError(f"{place} has a number or a nesting that is too long.") from None
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

    Its lines are in the order of the prompts. Continuations that end before an earlier one wait in
    a file next to it, whose first line says of what job they are. A context that closes both.

    Attributes:
        done: lines of the output.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]):
        """Opens the files.

        Args:
            job: of what it is, ready for JSON; another one is refused.

        Raises:
            UserError: if it exists and is finished, of another job, or being written.
        """
        self._path = path
        waiting = path.with_name(f"{path.name}.unfinished")
        first = json.dumps(job).encode() + b"\n"
        self._head = len(first)
        if waiting.exists() and path.exists():
            self._check(waiting, job)
        else:
            check_new_file(path)
            write_whole(waiting, first)
        with contextlib.ExitStack() as stack:
            self._lines = stack.enter_context(WholeLines(path, f"--output {path}"))
            self._waiting = stack.enter_context(WholeLines(waiting))
            self.done = sum(1 for _ in self._lines.read())
            _, *ahead = map(json.loads, self._waiting.read())
            self._close = stack.pop_all().close
        self._ahead = {number: line for number, line in ahead if number >= self.done}

    @property
    def written(self) -> int:
        """Continuations that are there, with those that wait."""
        return self.done + len(self._ahead)

    def __contains__(self, number: int) -> bool:
        """Whether the continuation of the prompt with this number is there."""
        return number < self.done or number in self._ahead

    def _check(self, waiting: Path, job: Mapping[str, Any]) -> None:
        try:
            with waiting.open("rb") as file:
                begun = json.loads(file.readline())
        except (OSError, ValueError):
            begun = {}
        for name, value in job.items():
            if begun.get(name) != value:
                raise UserError(
                    f"{self._path} was begun with another {name}; go on with the same, or choose "
                    "another --output."
                )

    def put(self, number: int, kept: Mapping[str, Any], text: bytes) -> None:
        """Writes the continuation of a prompt; bytes that are no UTF-8 become lone surrogates."""
        line = json.dumps({**kept, "text": text.decode(errors="surrogateescape")})
        self._ahead[number] = line
        if number > self.done:
            self._waiting.append(json.dumps([number, line]).encode())
        while (following := self._ahead.pop(self.done, None)) is not None:
            self._lines.append(following.encode())
            self.done += 1
        if not self._ahead and self._waiting.size > self._head:  # what waited is in the output
            self._lines.sync()
            self._waiting.cut(self._head)

    def finish(self) -> None:
        """Says that all lines are there."""
        self._lines.sync()
        self._waiting.path.unlink(missing_ok=True)

    def __enter__(self) -> "Continuations":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _most_bytes(prompt: Prompt) -> int:
    """Of the prompt and its continuation."""
    return len(prompt.text) + prompt.max_bytes


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def write_file(
    file: PromptFile,
    output: Continuations,
    as_completed: Callable[[Iterator[Prompt]], Iterator[tuple[int, bytes]]],
    done: Callable[[int], None],
) -> None:
    """Writes the continuations that are not there yet; `done` is told of each.

    Args:
        as_completed: `bytelm.inference.generation.Generator.as_completed`.
    """
    begun: dict[int, tuple[int, dict[str, Any]]] = {}  # by place: the number, and what is kept

    def prompts() -> Iterator[Prompt]:
        missing = (each for each in file.prompts() if each[0].number not in output)
        for place, (prompt, kept) in enumerate(missing):
            begun[place] = prompt.number, kept
            yield prompt

    for place, text in as_completed(prompts()):
        output.put(*begun.pop(place), text)
        done(1)
    output.finish()
