"""`bytelm decompress`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from bytelm.api import load
from bytelm.cli.arguments import parse
from bytelm.cli.compress import ENDING, checked_output, opened, tell, writing
from bytelm.cli.options import Place
from bytelm.codec.container import check_body, read_header
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import number_of, printable_name
from bytelm.data.progress import shown_progress
from bytelm.training.checkpoints.scores import Step


@dataclass(frozen=True)
class DecompressCommand:
    """Writes the file that `bytelm compress` compressed with this checkpoint."""

    file: Annotated[Place, tyro.conf.Positional]
    """What `bytelm compress` wrote; - reads standard input."""
    checkpoint: Place
    """The run directory."""
    output: Place | None = None
    """New file for the result, - for standard output; none = FILE without .bytelm."""
    step: Step | None = None
    """Which checkpoint: a step, or `best` in validation; none = the last."""
    verify: bool = True
    """Whether to compare the checkpoint with its digests."""


def decompress_command(arguments: Sequence[str]) -> int:
    """Writes the file that `bytelm compress` compressed with this checkpoint.

    `bytelm decompress --checkpoint RUN FILE [--output FILE]`
    """
    command = parse(DecompressCommand, arguments, "decompress")
    name = str(command.file)
    if command.output is None and not name.endswith(ENDING):
        raise UserError(
            f"{printable_name(name)} does not end in {ENDING}; name the file to write with "
            "--output."
        )
    output = checked_output(command.output, command.file, name.removesuffix(ENDING))
    with opened(command.file) as (source, _):
        begin, totals = source.tell(), read_header(source, name).totals
        check_body(source, totals, name)  # before the checkpoint is read
        codec = load(command.checkpoint, command.step, verify=command.verify).codec
        source.seek(begin)
        with writing(output) as target, shown_progress("decompressing", totals.bytes) as done:
            codec.decompress(source, target, name=name, done=done)
    tell(output, number_of(totals.bytes, "byte"))
    return 0
