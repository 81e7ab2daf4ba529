"""What a comparison's report says, as sections of sentences, tables and charts."""

import collections
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bytelm.core.intervals import LEAST_DOCUMENTS
from bytelm.experiments.record import Heading, RunRecord, SweepRow
from bytelm.experiments.report.charts import Chart, budget_words, curve_charts, pareto_charts
from bytelm.experiments.report.summary import Entry, breakdown, gather, paired_difference
from bytelm.experiments.report.table import (
    Table,
    bits,
    interval,
    known,
    power,
    signed,
    state,
    tabulate,
    whole,
)


@dataclass(frozen=True)
class Section:
    """A part of the report; what it has none of is empty.

    Attributes:
        title: its heading.
        sentences: what comes before the tables and charts.
        tables: in order.
        charts: in order.
        image: name of the file that shows the charts where they cannot be drawn.
    """

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    image: str = ""


def sections_of(heading: Heading, records: Sequence[RunRecord]) -> list[Section]:
    """The sections that there is anything to say in."""
    entries = gather(records)
    sections = [
        *_results(heading, entries),
        *chart_sections(heading, entries),
        *_breakdowns(heading, entries),
        sweep_section(heading.sweep),
        _unfinished(heading, records),
        _how_to_read(heading, entries),
    ]
    return [section for section in sections if section.sentences or section.tables]


def standing(records: Sequence[RunRecord]) -> str:
    """How many of the runs are done, and how the others stand."""
    counts = collections.Counter(run.state for run in records)
    done = f"{counts.pop('done', 0)} of {len(records)} runs done"
    return ", ".join([done, *(f"{count} {name}" for name, count in counts.items())])


def bound(entry: Entry) -> str:
    """The sign before bits that are an upper bound."""
    return "≤" if entry.upper_bound else ""


def mean_of(name: str, form: Callable[[float | None], str]) -> Callable[[Entry], str]:
    """A column: the mean of a figure over the runs done, in a format."""
    return lambda entry: form(entry.mean(name))


def _ratio(value: float | None) -> str:
    return known(value, ".2f")


def setting(value: float | None) -> str:
    """A learning rate."""
    return known(value, ".3g")


def runs_done(entry: Entry) -> str:
    """Empty for a single run that is done."""
    done, runs = len(entry.done), len(entry.runs)
    return "" if done == runs == 1 else f"{done} of {runs}"


def _speed(entry: Entry) -> float | None:
    """Measured in turns, or else in the runs themselves."""
    in_turns = entry.mean("train_bytes_per_second_in_turns")
    return entry.mean("train_bytes_per_second") if in_turns is None else in_turns


_COLUMNS: dict[str, Callable[[Entry], str]] = {
    "contender": lambda entry: entry.contender,
    "runs done": runs_done,
    "test bpb": lambda entry: bits(entry.mean("bpb"), bound(entry)),
    "95% interval": lambda entry: interval(entry.interval()),
    "over seeds": lambda entry: interval(entry.spread("bpb")),
    "training FLOPs": mean_of("train_flops", power),
    "training bytes/s": lambda entry: whole(_speed(entry)),
    "inference FLOPs/byte": mean_of("inference_flops_per_byte", whole),
    "at capacity": mean_of("inference_flops_per_byte_capacity", whole),
    "bytes/patch": mean_of("bytes_per_patch", _ratio),
    "bytes/token": mean_of("bytes_per_token", _ratio),
    "parameters": mean_of("parameters", whole),
    "without embeddings": mean_of("parameters_without_embeddings", whole),
    "peak memory, MiB": mean_of("peak_memory_bytes", lambda v: whole(v and v / 2**20)),
    "training bytes": mean_of("train_raw_bytes", whole),
    "bpb with end": lambda entry: bits(entry.mean("bpb_with_end"), bound(entry)),
    "context, bytes": mean_of("context_bytes", whole),
    "learning rate": lambda entry: setting(entry.runs[0].learning_rate),
    "steps": lambda entry: whole(entry.runs[0].steps),
}


def _results(heading: Heading, entries: Sequence[Entry]) -> list[Section]:
    """For each corpus and budget the figures, and the differences from the baseline."""
    sections = []
    groups = itertools.groupby(entries, lambda entry: (entry.corpus, entry.budget))
    for (corpus, budget), group in groups:
        part = list(group)
        title = f"{corpus}, {budget_words(budget, heading.axis)}"
        if not any(entry.done for entry in part):
            sections.append(Section(title, ("No run is done yet.",)))
            continue
        figures = tabulate(part, _COLUMNS, caption="Figures, each the mean of the runs done")
        compared = differences_section(heading.baseline, part)
        sections.append(Section(title, compared.sentences, (figures, *compared.tables)))
    return sections


def differences_section(
    reference: str,
    part: Sequence[Entry],
    what: str = "contender",
    measure: str = "bpb",
    *,
    same_seeds: bool = True,
) -> Section:
    """The table of differences from the baseline, and a sentence on those that there are not.

    Args:
        reference: name of the baseline.
        part: entries of one corpus and budget.
        what: an entry is.
        measure: the bits that differ.
        same_seeds: as of `paired_difference`.
    """
    title = f"Differences from {reference}"
    baseline = next((entry for entry in part if entry.contender == reference), None)
    others = [entry for entry in part if entry.done and entry is not baseline]
    pairs = [
        (
            entry,
            None if baseline is None else paired_difference(entry, baseline, same_seeds=same_seeds),
        )
        for entry in others
    ]
    found = [difference for _, difference in pairs if difference is not None]
    missing = ", ".join(entry.contender for entry, difference in pairs if difference is None)
    nothing = "Without a seed and test documents in common, not compared with"
    sentences = (f"{nothing} {reference}: {missing}.",) if missing else ()
    table = tabulate(
        found,
        {
            what: lambda d: d.contender,
            f"difference in {measure}": lambda d: signed(d.bpb, d.sign),
            "95% interval": lambda d: interval(d.interval, "+.4f"),
            "interval excludes 0": lambda d: d.verdict,
            "over seeds": lambda d: interval(d.by_seed, "+.4f"),
            "seeds": lambda d: str(d.seeds),
            "documents": lambda d: whole(d.documents),
        },
        caption=f"{title}: lower is better",
    )
    return Section(title, sentences, (table,) if found else ())


def chart_sections(heading: Heading, entries: Sequence[Entry]) -> list[Section]:
    """The sections of charts, with or without any chart."""
    costs = [
        ("training FLOPs", "train_flops", "pareto_train.png", False),
        (
            "inference FLOPs per byte",
            "inference_flops_per_byte",
            "pareto_inference.png",
            heading.axis != "inference_flops",
        ),
    ]
    sections = []
    for label, figure, image, by_budget in costs:
        charts = pareto_charts(entries, figure, label, heading.axis, by_budget=by_budget)
        told = "The dashed line is the Pareto front: nothing that costs no more is better."
        sentences = (told,) if charts else ()
        title = f"Bits per byte against {label}"
        sections.append(Section(title, sentences, (), tuple(charts), image))
    charts = curve_charts(entries, heading.axis)
    told = "Validation bits per byte while training, a line for each seed."
    sentences = (told,) if charts else ()
    sections.append(Section("Learning curves", sentences, (), tuple(charts), "curves.png"))
    return sections


_BREAKDOWNS = {
    "perturbed": ("Robustness", "perturbation/rate"),
    "language": ("Languages", "language"),
    "adapted": ("Adaptation", "language"),
}
_MEASURES: dict[tuple[str, str], tuple[str, str]] = {
    ("perturbed", "bpb"): ("Bits per byte of perturbed text", ".4f"),
    ("perturbed", "accuracy"): ("Next bytes predicted of perturbed text", ".2%"),
    ("language", "bpb"): ("Bits per byte of parallel text", ".3f"),
    ("language", "bits_per_sentence"): ("Bits per sentence of parallel text", ",.1f"),
    ("language", "premium"): ("Bits per sentence relative to English", ".3f"),
    ("language", "patches_per_sentence"): ("Patches per sentence", ",.1f"),
    ("language", "patches_premium"): ("Patches per sentence relative to English", ".3f"),
    ("adapted", "before"): ("Bits per byte before training on another language", ".4f"),
    ("adapted", "early"): ("Validation bits per byte after a tenth of that training", ".4f"),
    ("adapted", "bpb"): ("Bits per byte after training on another language", ".4f"),
    ("adapted", "forgetting"): ("Bits per byte lost on the first language", "+.4f"),
}
"""By the parts of a figure's name: what the table shows, and the format. Others are in the CSV."""
_NEXT_BYTES = (
    "Subword models predict next bytes along the canonical tokens: they are told where tokens end, "
    "which flatters them within words."
)
_BITS = ("/bpb", "/bits_per_sentence", "/before", "/early")
"""Ends of the names of figures that are upper bounds where bits per byte are."""


def _breakdowns(heading: Heading, entries: Sequence[Entry]) -> list[Section]:
    """Tables with a column for each contender, for each corpus, budget and measure."""
    sections = []
    for prefix, (title, first) in _BREAKDOWNS.items():
        tables = []
        groups = itertools.groupby(entries, lambda entry: (entry.corpus, entry.budget))
        for (corpus, budget), group in groups:
            part = list(group)
            where = f"{corpus}, {budget_words(budget, heading.axis)}"
            found = breakdown(part, prefix)
            for (kind, measure), (words, form) in _MEASURES.items():
                middles = found.get(measure, [])
                if kind != prefix or not middles:
                    continue
                cells = [
                    [_cell(entry, f"{prefix}/{middle}/{measure}", form) for middle in middles]
                    for entry in part
                ]
                columns = (first, *(entry.contender for entry in part))
                rows = tuple(zip(middles, *cells, strict=True))
                tables.append(Table(columns, rows, f"{words}: {where}"))
        subwords = prefix == "perturbed" and any(entry.upper_bound for entry in entries)
        sections.append(
            Section(title, (_NEXT_BYTES,) if subwords and tables else (), tuple(tables))
        )
    return sections


def _cell(entry: Entry, figure: str, form: str) -> str:
    value = entry.mean(figure)
    sign = bound(entry) if value is not None and figure.endswith(_BITS) else ""
    return f"{sign} {known(value, form)}".strip()


def sweep_section(
    sweep: Sequence[SweepRow], what: str = "contender", measure: str = "bpb"
) -> Section:
    """The learning rates that were tried, if there were several."""
    if not sweep:
        return Section("Learning rates")
    columns: dict[str, Callable[[SweepRow], str]] = {
        what: lambda row: row.contender,
        "learning rate": lambda row: setting(row.learning_rate),
        f"validation {measure}": lambda row: bits(row.validation_bpb),
        "chosen": lambda row: "chosen" if row.chosen else "",
    }
    told = _at_an_edge(sweep)
    return Section("Learning rates", told, (tabulate(sweep, columns, caption="Those tried"),))


def _at_an_edge(sweep: Sequence[SweepRow]) -> tuple[str, ...]:
    """A sentence on contenders whose best learning rate may lie beyond those that were tried."""
    tried = collections.defaultdict(list)
    for row in sweep:
        tried[row.contender].append(row.learning_rate)
    names = [
        f"{row.contender} ({'larger' if row.learning_rate == max(rates) else 'smaller'})"
        for row in sweep
        if row.chosen and row.learning_rate in (min(rates := tried[row.contender]), max(rates))
    ]
    if not names:
        return ()
    return (f"A better rate may lie beyond those tried, of: {', '.join(names)}.",)


def _unfinished(heading: Heading, records: Sequence[RunRecord]) -> Section:
    missing = [run for run in records if run.state != "done"]
    if not missing:
        return Section("Runs that are not done")
    columns: dict[str, Callable[[RunRecord], str]] = {
        "contender": lambda run: run.contender,
        "corpus": lambda run: run.corpus,
        "budget": lambda run: budget_words(run.budget, heading.axis),
        "seed": lambda run: str(run.seed),
        "state": lambda run: state(run.state, run.reason),
    }
    count = f"{len(missing)} of {len(records)} runs"
    table = tabulate(missing, columns, caption=count, prose=True)
    return Section("Runs that are not done", (), (table,))


def _how_to_read(heading: Heading, entries: Sequence[Entry]) -> Section:
    sentences = [
        "bpb: bits per byte of the test text's raw bytes, ends of documents not counted; lower is "
        "better. Its 95% interval is a bootstrap over documents, for which there must be at least "
        f"{LEAST_DOCUMENTS} that are not empty, and over seeds the mean of the intervals' ends. "
        "“over seeds” gives the lowest and the highest seed. An empty cell: not known, or not of "
        "that family.",
        "Inference FLOPs per byte are of the patches that the test text had; “at capacity” of "
        "those there is room for.",
        f"Differences from {heading.baseline} are of the same documents and of the seeds that both "
        "have done: for each document the mean over seeds of the difference in bits, then a "
        "bootstrap that resamples documents and divides the sum of bits by the sum of bytes. The "
        "interval tells how far a difference depends on the documents, not on the seed. Where it "
        "contains 0, these documents do not tell the two apart.",
    ]
    if any(entry.upper_bound for entry in entries):
        sentences.append(
            "≤ marks an upper bound: the bits of a subword model's canonical tokenisation, one of "
            "several that give the same text. The text's true bits are at most these. Before a "
            "difference, ≤ and ≥ say that the true one is at most, or at least, this: with ≤ "
            "“lower” holds and “higher” may not, with ≥ the reverse. A difference of two upper "
            "bounds has no mark."
        )
    return Section("How to read this", (*sentences, *heading.notes))
