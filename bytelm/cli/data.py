"""`bytelm data`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from bytelm.cli.arguments import parse, preset_argument, work_argument
from bytelm.cli.options import Bounds, Count, Place
from bytelm.core.errors import UserError
from bytelm.core.files import check_new_file
from bytelm.core.terminal_text import say
from bytelm.data.config import DataConfig
from bytelm.data.corpus.cache_listing import manage_cache
from bytelm.data.corpus.packing import Rows, pack
from bytelm.data.description import describe, samples_of_scripts
from bytelm.data.open_data import OpenData, training_text
from bytelm.data.overlap import named_source, print_overlap, shared_text, texts_of
from bytelm.data.pack_splits import pack_splits
from bytelm.data.progress import shown_progress
from bytelm.data.script_rates import print_rates
from bytelm.data.sources.source import Source, open_source
from bytelm.data.text_record import Split
from bytelm.data.write_tokenizer import write_unigram
from bytelm.evaluation.entropies import (
    EntropySample,
    find_limit,
    plot_entropies,
    print_entropies,
    print_scripts,
    sample_entropies,
)
from bytelm.models.entropy_patches import EntropyModelPatches
from bytelm.patching.entropy import EntropyRule
from bytelm.training.entropy_models import read_entropy_model
from bytelm.training.presets import load_preset

UNNAMED = Path("-")
"""Stands for a checkpoint that is not given."""


@dataclass(frozen=True)
class DescribeCommand:
    """Describes the documents of a source."""

    data: DataConfig
    samples: Annotated[int, Bounds(0)] = 3
    """Documents shown from each split."""


@dataclass(frozen=True)
class PackCommand:
    """Packs all splits before a run, and says what they hold and where they are.

    What is packed already is kept, also after a stop: only new and changed files are read. Several
    machines that share a cache may pack one source together.
    """

    data: DataConfig
    processes: Count | None = None
    """Processes that pack; none = as many as there are CPUs, if there is much text."""


@dataclass(frozen=True)
class CacheCommand:
    """Lists the cache: sizes, when each entry was last used, its state, its name, what it holds."""

    cache_dir: Place | None = None
    """The cache; none = the one that training uses without --data.cache-dir. Of an address, what
    this machine has of it."""
    verify: bool = False
    """Compare everything with its digests; damaged entries are made again when they are needed."""
    remove: tuple[str, ...] = ()
    """Names of entries to remove, or their beginnings, or `shards/` for all shards of text; entries
    in use are kept."""
    remove_unused: Annotated[float, Bounds(0)] | None = None
    """Remove entries that were not used for so many days; 0 for all that are not in use."""


@dataclass(frozen=True)
class OverlapCommand:
    """Finds text of one source that another one holds too, such as a test set's in training text.

    `bytelm data overlap 'train/*.jsonl' test.jsonl` says how much of the second is in the first: of
    all documents, the bytes in windows of 60. `bytelm data overlap hf:NAME hf:NAME --splits train
    test` compares two splits of a dataset.
    """

    text_key: str | None = None
    """Key or column of the text in both; none = `text`, or a table's only column of text."""
    splits: tuple[Split, Split] | None = None
    """The splits of the first and of the second that are compared, as a run without other options
    has them; none = all that both hold."""


@dataclass(frozen=True)
class UnigramCommand:
    """Trains a SentencePiece Unigram model on the train split, for data.unigram."""

    data: DataConfig
    pieces: Count = 10_000
    """Most pieces of the model; a small text gives fewer."""
    output: Place = Path("unigram.model")
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


@dataclass(frozen=True)
class EntropiesCommand:
    """Finds the threshold of an entropy model for a mean length of patches, on text of train.

    It shows the histogram of the entropies, figures of the patches, and patches of some rows; of
    text with scripts also the mean of each, next to that of the rule `spacelike`.
    """

    data: DataConfig
    checkpoint: Place
    """The entropy model: a run directory or an exported folder."""
    bytes_per_patch: float = 4.5
    """The wanted mean, unless --threshold or --rise is given."""
    threshold: float | None = None
    """Show the patches of this threshold, in nats."""
    rise: float | None = None
    """Show the patches of this rise of the entropy, in nats; with --find threshold, a condition
    besides the threshold to find."""
    find: Literal["threshold", "rise"] | None = None
    """What to find; none = the threshold, unless one of them is given."""
    longest_patch: Count | None = None
    """Most bytes in a patch; none = no limit."""
    reset: bool = False
    """Whether the entropy model's context begins again at each newline."""
    sample_bytes: Count = 500_000
    """Most bytes of text, of documents in random order, and of each script the first ones."""
    samples: Annotated[int, Bounds(0)] = 3
    """Rows whose first patches are shown."""
    plot: Place | None = None
    """Also draw the histogram into this new file, .png or .svg."""


DATA_COMMANDS: dict[str, type[Any]] = {
    "describe": DescribeCommand,
    "pack": PackCommand,
    "overlap": OverlapCommand,
    "unigram": UnigramCommand,
    "rates": RatesCommand,
    "entropies": EntropiesCommand,
    "cache": CacheCommand,
}
"""Subcommands, and the options of each."""


def data_command(arguments: Sequence[str]) -> int:
    """Describes, packs and compares text, trains Unigram models, and lists the cache.

    `bytelm data describe|pack|unigram|rates|entropies|cache [PRESET] [options]`, or
    `bytelm data overlap FILES FILES`
    """
    name = work_argument(arguments, data_command, DATA_COMMANDS)
    if name == "cache":
        cache = parse(CacheCommand, arguments[1:], "data cache", CacheCommand())
        folder = None if cache.cache_dir is None else str(cache.cache_dir)
        where = DataConfig(cache_dir=folder).cache_path
        return manage_cache(
            where, verify=cache.verify, remove=cache.remove, remove_unused=cache.remove_unused
        )
    if name == "overlap":
        return _show_overlap(arguments[1:])
    preset, rest = preset_argument(arguments[1:])
    config = load_preset(preset).data if preset else DataConfig()
    if name == "entropies":
        default = EntropiesCommand(config, checkpoint=UNNAMED)
    else:
        default = DATA_COMMANDS[name](config)
    command = parse(DATA_COMMANDS[name], rest, f"data {name}", default)
    if isinstance(command, PackCommand):
        pack_splits(OpenData(command.data, processes=command.processes))
        return 0
    data = OpenData(command.data)
    if isinstance(command, DescribeCommand):
        describe(data, command.samples)
    elif isinstance(command, UnigramCommand):
        write_unigram(data, command.pieces, command.max_bytes, command.output)
    elif isinstance(command, RatesCommand):
        print_rates(data, command.anchor, command.rate)
    elif isinstance(command, EntropiesCommand):
        _show_entropies(command, data)
    return 0


def _show_overlap(arguments: Sequence[str]) -> int:
    count = next((i for i, each in enumerate(arguments) if each.startswith("-")), len(arguments))
    command = parse(OverlapCommand, arguments[count:], "data overlap", OverlapCommand())
    if count != 2:
        raise UserError(
            "name the text that may hold it, and the text to look for: `bytelm data overlap "
            "'train/*.jsonl' test.jsonl`; each is a pattern of files or the name of a dataset."
        )
    where = DataConfig().cache_path
    others, mine = (
        open_source(named_source(each, command.text_key), where) for each in arguments[:2]
    )
    split, its_split = command.splits or (None, None)
    stored = others.reader.own_splits if split is None else {others.stored_split(split)}
    size = sum(others.reader.size(each) for each in stored)
    with shown_progress(f"reading {others.name}", size) as done:
        shared = shared_text(list(texts_of(mine, its_split)), texts_of(others, split), done)
    print_overlap(shared, _named(mine, its_split), _named(others, split))
    return 0


def _named(source: Source, split: Split | None) -> str:
    return source.name if split is None else f"{source.name} ({split})"


def _show_entropies(command: EntropiesCommand, data: OpenData) -> None:
    if command.checkpoint == UNNAMED:
        raise UserError(
            "name the entropy model with --checkpoint RUN (`bytelm train entropy_tiny` trains one)."
        )
    if command.plot is not None:
        if command.plot.suffix not in (".png", ".svg"):
            raise UserError(f"--plot {command.plot} must end in .png or .svg; name it so.")
        check_new_file(command.plot, "--plot")
    options = {name: getattr(command, name) for name in ("rise", "longest_patch", "reset")}
    limit = command.find
    if limit is None and command.threshold is None and command.rise is None:
        limit = "threshold"
    threshold = 0.0 if limit == "threshold" else command.threshold
    options["rise"] = 0.0 if limit == "rise" else command.rise
    patches, params = read_entropy_model(
        EntropyModelPatches(str(command.checkpoint), threshold=threshold, **options),
        option="--checkpoint",
    )
    texts = training_text(data, command.sample_bytes)
    sample = sample_entropies(patches, params, Rows(pack(texts), data.sequence_length))
    rule = patches.entropy_rule
    if limit is not None:
        rule = find_limit(sample, rule, command.bytes_per_patch, limit)
    print_entropies(sample, rule, command.samples)
    _show_scripts(command, data, patches, params, rule)
    if command.plot is not None:
        plot_entropies(sample, [rule], command.plot)
        say(f"plot: {command.plot}")
    say(f"for a model: {_model_options(command, rule, sample)}")


def _show_scripts(
    command: EntropiesCommand,
    data: OpenData,
    patches: EntropyModelPatches,
    params: Any,
    rule: EntropyRule,
) -> None:
    """Patches of each script, if documents have scripts."""
    size = command.sample_bytes
    documents = (text for source in data.sources for text in source.documents("train"))
    texts = samples_of_scripts(documents, 0, size)
    rows = {
        script: Rows(pack(found), data.sequence_length)
        for script, found in texts.items()
        if script is not None
    }
    if rows:
        samples = {name: sample_entropies(patches, params, part) for name, part in rows.items()}
        print_scripts(samples, rows, rule)


def _model_options(command: EntropiesCommand, rule: EntropyRule, sample: EntropySample) -> str:
    """The options of a model that cuts text so."""
    found = sample.patches(rule)
    mean = sample.num_bytes / len(found.sizes)
    values = {
        "checkpoint": shlex.quote(str(command.checkpoint)),
        "threshold": rule.threshold,
        "rise": rule.rise,
        "longest-patch": rule.longest,
        "bytes-per-patch": f"{mean:.2f}",
    }
    given = [
        f"--model.segmenter.{name} {value}" for name, value in values.items() if value is not None
    ]
    if rule.threshold is None:
        given.insert(1, "--model.segmenter.threshold None")
    reset = ["--model.segmenter.reset"] if command.reset else []
    slots = f"--model.bytes-per-slot {found.bytes_per_slot:.2f}"
    return " ".join(["--model.segmenter entropy_model", *given, *reset, slots])
