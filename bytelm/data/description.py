"""Figures and samples of text, which `bytelm data describe` prints."""

import array
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import jax
import numpy as np
from rich.table import Column, Table
from rich.text import Text

from bytelm.core.console import TerminalConsole
from bytelm.core.terminal_text import printable_name
from bytelm.data.corpus.packing import Rows, pack
from bytelm.data.open_data import OpenData
from bytelm.data.sources.distinct import DistinctReader
from bytelm.data.sources.reader import Document
from bytelm.data.sources.source import Source
from bytelm.data.tasks.task import Pair, Task
from bytelm.data.text_record import SPLITS, Split
from bytelm.patching.rules import RULES, find_edges
from bytelm.patching.word_levels import WordGroups, split_levels

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
PERCENT = [f"{quantile:.0%}" for quantile in QUANTILES]
SAMPLE_BYTES = 160
SAMPLED_DOCUMENTS = 100
"""First documents of train, from which a task makes its samples."""
PATCHED_BYTES = 4 * 10**6
"""Most bytes of a source that are cut into patches."""
PATCHED_BYTES_OF_SCRIPT = 10**6
"""Most bytes of each script that are cut into patches as well."""
SYMBOLS_AT_ONCE = 2**18
"""About how many symbols one call cuts into patches."""
MOST_OVERFLOW = 0.001
"""Share of the patches that may overflow at the advised capacity."""
GROUPS = WordGroups().groups
LEVELS = {f"{WordGroups.kind}, {words}": level for level, words in enumerate(GROUPS, start=1)}
"""The nested levels of `WordGroups`, by the words in a patch."""


@dataclass
class SplitStatistics:
    """Figures of the documents of one split."""

    lengths: array.array = field(default_factory=lambda: array.array("q"))
    """Bytes of each document."""
    invalid: int = 0
    """Documents that are not valid UTF-8."""
    valid_bytes: int = 0
    characters: int = 0
    """Bytes and characters (code points) of the other documents."""
    samples: list[bytes] = field(default_factory=list)


def statistics(documents: Iterable[bytes], samples: int) -> SplitStatistics:
    """Counts the documents in one pass, and keeps the first ones."""
    found, remaining = SplitStatistics(), iter(documents)
    found.samples = list(itertools.islice(remaining, samples))
    for document in itertools.chain(found.samples, remaining):
        found.lengths.append(len(document))
        try:
            found.characters += len(document.decode())
            found.valid_bytes += len(document)
        except UnicodeDecodeError:
            found.invalid += 1
    return found


_ARRAYS = ("sizes", "per_row")


@dataclass(frozen=True)
class PatchStatistics:
    """Figures of the patches of a rule in rows of T symbols."""

    sizes: np.ndarray
    """Symbols in each patch, int64 `[patches]`, START and END included."""
    per_row: np.ndarray
    """Patches that start in each row, int64 `[rows]`."""
    length: int

    @property
    def bytes_per_slot(self) -> float:
        """The `model.bytes_per_slot`, rounded down, at which hardly any patches overflow."""
        capacities = np.arange(1, self.length + 1)
        overflow = np.maximum(self.per_row[:, None] - capacities[None, :], 0).sum(axis=0)
        capacity = capacities[np.argmax(overflow < MOST_OVERFLOW * len(self.sizes))]
        return 100 * self.length // capacity / 100


def patch_statistics(rule: str, rows: Rows) -> PatchStatistics:
    """Cuts rows, at least one, into patches by a rule or a level of `LEVELS`, as a model does."""
    batch_size = min(len(rows), max(1, SYMBOLS_AT_ONCE // rows.length))
    found = []
    for first in range(0, len(rows), batch_size):
        batch = rows.batch(range(first, first + batch_size))
        starts = np.asarray(_starts(rule, batch["ids"], batch["document_ids"]))
        found.append(statistics_of_starts(starts, batch["document_ids"]))
    sizes, per_row = (np.concatenate([getattr(x, name) for x in found]) for name in _ARRAYS)
    return PatchStatistics(sizes, per_row[: len(rows)], rows.length)


def statistics_of_starts(starts: np.ndarray, document_ids: np.ndarray) -> PatchStatistics:
    """Of rows in which patches start where `starts`, bool `[B, T]`, is True."""
    # A patch ends where the next one, another document, padding or another row starts.
    edges = starts | (np.diff(document_ids, axis=1, prepend=-1) != 0)
    positions = np.flatnonzero(edges)
    sizes = np.diff(positions, append=edges.size)[starts.reshape(-1)[positions]]
    return PatchStatistics(sizes, starts.sum(axis=1), starts.shape[1])


def _starts(rule: str, ids: np.ndarray, document_ids: np.ndarray) -> jax.Array:
    if rule in LEVELS:
        return split_levels(ids, document_ids, GROUPS)[0] >= LEVELS[rule]
    return find_edges(rule, ids, document_ids)[0].starts


def describe(data: OpenData, samples: int = 3) -> None:
    """Prints documents, bytes, lengths, patches of every rule and samples of each source.

    If documents have scripts, patches are also counted for each script. Pairs and diagnostic tasks
    print inputs and targets instead; span corruption prints them too. UserError for a bad source.

    Args:
        data: what to describe; no cache is written.
        samples: how many documents of each split to show; only their beginnings are shown.
    """
    console, task, length = TerminalConsole(), data.config.task, data.sequence_length
    pairs = {split: task.pairs(data, split) for split in SPLITS}
    given = {split: list(found) for split, found in pairs.items() if found is not None}
    if given:
        _describe_pairs(task, given, samples, console)
        return
    for source in data.sources:
        _describe_source(source, samples, length, console)
        documents = itertools.islice(source.documents("train"), SAMPLED_DOCUMENTS)
        corpus = pack(document.text for document in documents)
        if (described := task.describe(corpus, length)) is not None:
            words, examples = described
            console.print(words)
            _show_pairs("train", itertools.islice(examples, samples), console)


def _describe_pairs(
    task: Task, pairs: dict[Split, list[Pair]], samples: int, console: TerminalConsole
) -> None:
    title = f"{task.kind}: bytes of inputs and targets, by quantile"
    table = _table(title, ("split", "pairs", "", *PERCENT))
    longest = {"inputs": 0, "targets": 0}
    for split, found in pairs.items():
        sizes = {
            "inputs": [len(pair.input) for pair in found],
            "targets": [len(pair.target) for pair in found],
        }
        for side, values in sizes.items():
            quantiles = np.quantile(values, QUANTILES) if values else ()
            table.add_row(split, f"{len(found):,}", side, *(f"{value:,.0f}" for value in quantiles))
            longest[side] = max(longest[side], max(values, default=0))
    console.print(table)
    if task.needs_targets:
        console.print(
            f"With their ends, all fit in data.sequence_length {longest['inputs'] + 1} and "
            f"data.target_length {longest['targets'] + 1}."
        )
    for split, found in pairs.items():
        _show_pairs(split, found[:samples], console)


def _show_pairs(split: str, pairs: Iterable[Pair], console: TerminalConsole) -> None:
    for pair in pairs:
        texts = [printable(text[:SAMPLE_BYTES]) for text in (pair.input, pair.target)]
        console.print(Text(f"{split}: {texts[0]}\n  -> {texts[1]}"))


def _describe_source(source: Source, samples: int, length: int, console: TerminalConsole) -> None:
    left_out = ["skipped"] + ["repeated"] * isinstance(source.reader, DistinctReader)
    columns = ("split", "documents", "bytes", "bytes per character", "not UTF-8", *left_out)
    table = _table(printable_name(source.name), columns)
    lengths = _table("bytes in a document, by quantile", ("split", *PERCENT))
    shown = []
    for split in SPLITS:
        found = statistics((document.text for document in source.documents(split)), samples)
        per_character = found.valid_bytes / found.characters if found.characters else float("nan")
        table.add_row(
            split,
            f"{len(found.lengths):,}",
            f"{sum(found.lengths):,}",
            f"{per_character:.3f}",
            f"{found.invalid:,}",
            *(f"{getattr(source.reader, name):,}" for name in left_out),
        )
        if found.lengths:
            values = np.quantile(np.frombuffer(found.lengths, np.int64), QUANTILES)
            lengths.add_row(split, *(f"{value:,.0f}" for value in values))
        shown += [(split, document) for document in found.samples]
    console.print(table, lengths, sep="\n")
    texts_of_scripts = samples_of_scripts(
        source.documents("train"), PATCHED_BYTES, PATCHED_BYTES_OF_SCRIPT
    )
    rows = {script: Rows(pack(texts), length) for script, texts in texts_of_scripts.items()}
    if rows:
        console.print(_patch_table(rows))
    for split, document in shown:
        console.print(Text(f"{split}: "), Text(printable(document[:SAMPLE_BYTES])), sep="")


def _table(title: str, columns: Iterable[str]) -> Table:
    return Table(*(Column(name, justify="right") for name in columns), title=title)


def samples_of_scripts(
    documents: Iterable[Document], all_bytes: int, script_bytes: int
) -> dict[str | None, list[bytes]]:
    """The first texts of all scripts together (None) and of each known script.

    The last text is cut, so that the texts have at most as many bytes, of all and of each script.
    """
    samples: dict[str | None, list[bytes]] = {}
    left: dict[str | None, int] = {None: all_bytes}
    for text, script, _ in documents:
        for name in dict.fromkeys([None, script]):
            size = left.setdefault(name, script_bytes)
            if size > 0:
                samples.setdefault(name, []).append(text[:size])
                left[name] -= len(text)
        if script is None and left[None] <= 0:
            break
    return samples


def _patch_table(rows: dict[str | None, Rows]) -> Table:
    """One line for each rule and script, grouped by rule."""
    first, has_scripts = rows[None], len(rows) > 1
    named = ("rule", "script") if has_scripts else ("rule",)
    figures = ("mean", *PERCENT, "model.bytes_per_slot")
    table = Table(
        *(Column(name, justify="right", no_wrap=True) for name in named),
        *(Column(name, justify="right", overflow="fold") for name in figures),
        title="bytes per patch, with the symbols around documents: mean and quantiles, in rows of "
        f"{first.length:,}, over the first {first.corpus.num_bytes:,} bytes of train"
        + (f" and up to {PATCHED_BYTES_OF_SCRIPT:,} of each script" if has_scripts else ""),
        caption=f"With model.bytes_per_slot, fewer than {MOST_OVERFLOW:.1%} of the patches "
        "overflow; what a level inside another takes is the quotient of theirs.",
    )
    for rule in [*(name for name in RULES if name != "fixed"), *LEVELS]:
        for script, part in rows.items():
            found = patch_statistics(rule, part)
            names: list[str | Text] = [rule if part is first else "", Text(script or "all")]
            quantiles = (f"{size:,.0f}" for size in np.quantile(found.sizes, QUANTILES))
            mean, advised = f"{found.sizes.mean():.2f}", f"{found.bytes_per_slot:.2f}"
            table.add_row(*names[: len(named)], mean, *quantiles, advised)
        table.add_section()
    return table


def printable(text: bytes) -> str:
    """Text on one line, safe for a terminal: escapes for control characters and invalid bytes."""
    decoded = text.decode(errors="backslashreplace")
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in decoded
    )
