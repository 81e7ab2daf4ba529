"""`bytelm compress`."""

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import tyro

from bytelm.api import load
from bytelm.cli.arguments import parse
from bytelm.cli.options import Count, Place
from bytelm.codec.codec import ROWS
from bytelm.codec.container import Header
from bytelm.core.errors import UserError
from bytelm.core.files import check_new_file, new_file
from bytelm.core.places import is_address, place
from bytelm.core.terminal_text import number_of, printable_name, say
from bytelm.data.progress import shown_progress
from bytelm.training.checkpoints.scores import Step

ENDING = ".bytelm"
"""Of the names of compressed files."""
STREAM = Path("-")
"""Standard input or output."""


@dataclass(frozen=True)
class CompressCommand:
    """Compresses a file with a checkpoint; the same checkpoint decompresses it."""

    file: Annotated[Place, tyro.conf.Positional]
    """Any file; - reads standard input."""
    checkpoint: Place
    """The run directory."""
    output: Place | None = None
    """New file for the result, - for standard output; none = FILE.bytelm."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    verify: bool = True
    """Whether to compare the checkpoint with its digests."""
    check: bool = False
    """Then decompress the result, and compare, before the file appears."""
    rows: Count = ROWS
    """Most stretches of the file that are coded at a time; fewer need less memory, and are slower,
    but each byte sees more of what is before it."""


def compress_command(arguments: Sequence[str]) -> int:
    """Compresses a file with a checkpoint; the same checkpoint decompresses it.

    `bytelm compress --checkpoint RUN FILE [--output FILE]`
    """
    command = parse(CompressCommand, arguments, "compress")
    output = checked_output(command.output, command.file, f"{command.file}{ENDING}")
    with opened(command.file) as (source, size):
        codec = load(command.checkpoint, command.step, verify=command.verify).codec
        with writing(output) as target:
            with shown_progress("compressing", size) as done:
                header = codec.compress(source, target, size, rows=command.rows, done=done)
            if command.check:
                target.seek(0)
                with open(os.devnull, "wb") as nowhere, shown_progress("checking", size) as done:
                    codec.decompress(target, nowhere, name="the result", done=done)
    tell(output, f"{number_of(size, 'byte')} to {_compressed(header)}")
    return 0


def _compressed(header: Header) -> str:
    """The size of a compressed file, and its ratios."""
    size, coded = header.totals.bytes, len(header.to_bytes()) + header.totals.coded_bytes
    rate = f", {coded / size:.1%}, {8 * coded / size:.3f} bits per byte" if size else ""
    return f"{coded:,}{rate}"


def checked_output(output: Path | None, file: Path, default: str) -> Path:
    """The file to write, `default` for None; UserError unless it can be written and is new."""
    if output is None and file == STREAM:
        raise UserError("standard input has no name; name the file to write with --output.")
    output = place(default) if output is None else output
    if output != STREAM:
        check_new_file(output)
    return output


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file to read, which can seek, and its size; a copy of objects, standard input and pipes."""
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if path == STREAM else stack.enter_context(path.open("rb"))
        if is_address(path) or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy)
            file = copy
            file.seek(0)
        begin = file.tell()
        size = file.seek(0, os.SEEK_END) - begin
        file.seek(begin)
        yield file, size


@contextlib.contextmanager
def writing(output: Path) -> Iterator[BinaryIO]:
    """A file to write, which can seek; the output gets its content when all is written."""
    if output != STREAM:
        with new_file(output) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def tell(output: Path, message: str) -> None:
    """Says what was written, on standard error if standard output has the result."""
    stream = sys.stderr if output == STREAM else sys.stdout
    say(f"{printable_name(output)}: {message}", stream)
