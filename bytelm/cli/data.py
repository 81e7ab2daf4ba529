"""`bytelm data`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bytelm.cli.arguments import parse, preset_argument, work_argument
from bytelm.cli.options import Bounds, Count
from bytelm.data.config import DataConfig
from bytelm.data.corpus.cache_listing import manage_cache
from bytelm.data.description import describe
from bytelm.data.open_data import OpenData
from bytelm.data.script_rates import print_rates
from bytelm.data.write_tokenizer import write_unigram
from bytelm.training.presets import load_preset


@dataclass(frozen=True)
class DescribeCommand:
    """Describes the documents of a source."""

    data: DataConfig
    samples: Annotated[int, Bounds(0)] = 3
    """Documents shown from each split."""


@dataclass(frozen=True)
class CacheCommand:
    """Lists the cache: sizes, when each entry was last used, its state, its name, what it holds."""

    cache_dir: Path | None = None
    """The cache; none = the one that training uses without --data.cache-dir."""
    verify: bool = False
    """Compare everything with its digests; damaged entries are made again when they are needed."""
    remove: tuple[str, ...] = ()
    """Names of entries to remove, or their beginnings; entries in use are kept."""
    remove_unused: float | None = None
    """Remove entries that were not used for so many days; 0 for all that are not in use."""


@dataclass(frozen=True)
class UnigramCommand:
    """Trains a SentencePiece Unigram model on the train split, for data.unigram."""

    data: DataConfig
    pieces: Count = 10_000
    """Most pieces of the model; a small text gives fewer."""
    output: Path = Path("unigram.model")
    """The new file; an existing file is never replaced."""
    max_bytes: Count = 20_000_000
    """Most bytes of text to train on; documents are taken in random order."""


@dataclass(frozen=True)
class RatesCommand:
    """Measures FLEXITOKENS' rate and deviation of each script on parallel text.

    The text must be parallel: the same documents in every script, each with its script named. A
    script's rate is the anchor's times the ratio of their mean bytes per document.
    """

    data: DataConfig
    anchor: str = "eng"
    """The script whose rate is given."""
    rate: float = 0.333
    """Boundaries per byte of the anchor."""


DATA_COMMANDS: dict[str, type[Any]] = {
    "describe": DescribeCommand,
    "unigram": UnigramCommand,
    "rates": RatesCommand,
    "cache": CacheCommand,
}
"""Subcommands, and the options of each."""


def data_command(arguments: Sequence[str]) -> int:
    """Describes text, trains Unigram models, measures rates of scripts, and lists the cache.

    `bytelm data describe|unigram|rates|cache [PRESET] [options]`
    """
    name = work_argument(arguments, data_command, DATA_COMMANDS)
    if name == "cache":
        cache = parse(CacheCommand, arguments[1:], "data cache", CacheCommand())
        folder = None if cache.cache_dir is None else str(cache.cache_dir)
        where = DataConfig(cache_dir=folder).cache_path
        return manage_cache(
            where, verify=cache.verify, remove=cache.remove, remove_unused=cache.remove_unused
        )
    preset, rest = preset_argument(arguments[1:])
    config = load_preset(preset).data if preset else DataConfig()
    command = parse(DATA_COMMANDS[name], rest, f"data {name}", DATA_COMMANDS[name](config))
    data = OpenData(command.data)
    if isinstance(command, DescribeCommand):
        describe(data, command.samples)
    elif isinstance(command, UnigramCommand):
        write_unigram(data, command.pieces, command.max_bytes, command.output)
    elif isinstance(command, RatesCommand):
        print_rates(data, command.anchor, command.rate)
    return 0
