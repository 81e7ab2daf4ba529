"""The tables of a report: results, differences, breakdowns, learning rates, unfinished runs."""

import collections
from collections.abc import Callable, Sequence

from bytelm.core.statistics import STATISTICS
from bytelm.evaluation.page.tables import Table, one_line, tabulate
from bytelm.experiments.records import Heading, RunRecord, SweepRow
from bytelm.experiments.report.summary import Difference, Entry, breakdown, paired_difference

Columns = dict[str, Callable[[Entry], str]]
Form = str | Callable[[float], str]
"""A format such as ".4f", or a function that writes the number."""


def result_table(heading: Heading, entries: Sequence[Entry]) -> Table:
    """The figures of one corpus and budget."""
    columns = result_columns(heading, entries)
    return tabulate(entries, columns, caption="Figures, each the mean of the runs done")


def result_columns(heading: Heading, entries: Sequence[Entry]) -> Columns:
    """The columns of the results; those that are empty for all contenders are not shown."""
    measure, short = heading.measure, heading.short_measure
    figures = dict.fromkeys(name for e in entries for run in e.done for name in run.figures)
    others = [n for n in figures if n in STATISTICS and not n.startswith(measure)]
    return {
        "contender": lambda entry: entry.contender,
        "runs done": _runs_done,
        f"test {short}": _figure(measure),
        "95% interval": lambda entry: interval_text((f := entry.figure(measure)) and f.interval),
        "over seeds": lambda entry: interval_text(entry.spread(measure)),
        "exact match": _figure("exact_match"),
        "encoder time saved": _mean("encoder_time_saved", ".1%"),
        f"validation {short}": _mean("validation_bits", ".4f"),
        "training FLOPs": _figure("train_flops"),
        "training bytes/s": lambda entry: number_text(_speed(entry)),
        "inference FLOPs/byte": _figure("inference_flops_per_byte"),
        "at capacity": _figure("inference_flops_per_byte_capacity"),
        "forward FLOPs/byte": _figure("forward_flops_per_byte"),
        **{name.replace("_per_", "/").replace("_", " "): _figure(name) for name in others},
        "bytes/token": _figure("bytes_per_token"),
        "parameters": _figure("parameters"),
        "without embeddings": _figure("parameters_without_embeddings"),
        "peak memory, MiB": _mean("peak_memory_bytes", lambda size: f"{size / 2**20:,.0f}"),
        "training bytes": _figure("train_raw_bytes"),
        f"{short} with end": _figure(f"{measure}_with_end"),
        "context, bytes": _figure("context_bytes"),
        "learning rate": lambda entry: number_text(entry.runs[0].learning_rate, ".3g"),
        "steps": lambda entry: number_text(entry.runs[0].steps),
    }


def brief_table(heading: Heading, entries: Sequence[Entry]) -> Table:
    """The columns that fit a terminal, and the differences from the baseline."""
    columns = result_columns(heading, entries)
    test = f"test {heading.short_measure}"
    names = ["contender", "runs done", test, "95% interval", "over seeds"]
    names += ["exact match", "deleted", "bytes/patch", "bytes/token"]
    less = {d.contender: difference_text(d) for d in differences(heading, entries)[0]}
    shown: Columns = {
        **{name: columns[name] for name in names if name in columns},
        f"less {heading.baseline}": lambda entry: less.get(entry.contender, ""),
        "state": lambda entry: state_text(*entry.state),
    }
    return tabulate(entries, shown)


def differences(heading: Heading, group: Sequence[Entry]) -> tuple[list[Difference], list[str]]:
    """The differences of one corpus and budget, and the contenders that cannot be compared."""
    baseline = next((entry for entry in group if entry.contender == heading.baseline), None)
    found, missing = [], []
    for entry in group:
        if not entry.done or entry is baseline:
            continue
        difference = None
        if baseline is not None:
            difference = paired_difference(entry, baseline, same_seeds=heading.same_seeds)
        if difference is None:
            missing.append(entry.contender)
        else:
            found.append(difference)
    return found, missing


def difference_table(heading: Heading, found: Sequence[Difference]) -> Table:
    """The differences from the baseline."""
    columns: dict[str, Callable[[Difference], str]] = {
        "contender": lambda d: d.contender,
        f"difference in {heading.short_measure}": difference_text,
        "95% interval": lambda d: interval_text(d.interval, "+.4f"),
        "interval excludes 0": lambda d: d.verdict,
        "over seeds": lambda d: interval_text(d.by_seed, "+.4f"),
        "seeds": lambda d: str(d.seeds),
        "documents": lambda d: number_text(d.documents),
    }
    caption = f"Differences from {heading.baseline}: lower is better"
    return tabulate(found, columns, caption=caption)


BREAKDOWNS = {
    "perturbed": ("Robustness", "perturbation/rate"),
    "language": ("Languages", "language"),
    "adapted": ("Adaptation", "language"),
}
"""By the first part of a figure's name: the section, and the name of its first column."""
_CAPTIONS: dict[tuple[str, str], tuple[str, str]] = {
    ("perturbed", "bpb"): ("Bits per byte of perturbed text", ".4f"),
    ("perturbed", "accuracy"): ("Next bytes predicted of perturbed text", ".2%"),
    ("perturbed", "mean_bpb"): ("Bits per byte of perturbed text, mean over rates", ".4f"),
    ("perturbed", "mean_accuracy"): ("Next bytes predicted, mean over rates", ".2%"),
    ("language", "bpb"): ("Bits per byte of parallel text", ".3f"),
    ("language", "bits_per_sentence"): ("Bits per sentence of parallel text", ",.1f"),
    ("language", "premium"): ("Bits per sentence relative to {reference}", ".3f"),
    ("language", "patches_per_sentence"): ("Patches per sentence", ",.1f"),
    ("language", "patches_premium"): ("Patches per sentence relative to {reference}", ".3f"),
    ("language", "flops_premium"): ("FLOPs per sentence relative to {reference}", ".3f"),
    ("adapted", "before"): ("Bits per byte before training on another language", ".4f"),
    ("adapted", "early"): ("Validation bits per byte after a tenth of that training", ".4f"),
    ("adapted", "bpb"): ("Bits per byte after training on another language", ".4f"),
    ("adapted", "forgetting"): ("Bits per byte lost on the first language", "+.4f"),
}
"""By the first and last part of a figure's name: a table's caption, and its numbers' format."""


def breakdown_tables(
    heading: Heading, where: str, group: Sequence[Entry], prefix: str
) -> list[Table]:
    """Tables of the figures `prefix/MIDDLE/MEASURE` with a column for each contender."""
    found = breakdown(group, prefix)
    tables = []
    for (kind, measure), (caption, form) in _CAPTIONS.items():
        middles = found.get(measure, [])
        if kind != prefix or not middles:
            continue
        cells = [
            [_cell(entry, f"{prefix}/{middle}/{measure}", form) for middle in middles]
            for entry in group
        ]
        columns = (BREAKDOWNS[prefix][1], *(entry.contender for entry in group))
        title = ": ".join(filter(None, (caption.format(reference=heading.reference), where)))
        tables.append(Table(columns, tuple(zip(middles, *cells, strict=True)), title))
    return tables


def sweep_table(heading: Heading) -> Table:
    """The learning rates that were tried."""
    columns: dict[str, Callable[[SweepRow], str]] = {
        "contender": lambda row: row.contender,
        "learning rate": lambda row: number_text(row.learning_rate, ".3g"),
        f"validation {heading.short_measure}": lambda r: number_text(r.validation_bits, ".4f"),
        "chosen": lambda row: "chosen" if row.chosen else "",
    }
    return tabulate(heading.sweep, columns, caption="Those tried")


def best_at_an_edge(sweep: Sequence[SweepRow]) -> list[str]:
    """Contenders whose best learning rate may lie beyond those tried, and on which side."""
    tried = collections.defaultdict(list)
    for row in sweep:
        tried[row.contender].append(row.learning_rate)
    return [
        f"{row.contender} ({'larger' if row.learning_rate == max(rates) else 'smaller'})"
        for row in sweep
        if row.chosen and row.learning_rate in (min(rates := tried[row.contender]), max(rates))
    ]


def unfinished_tables(heading: Heading, records: Sequence[RunRecord]) -> tuple[Table, ...]:
    """The runs that are not done, and why; no table if all are."""
    missing = [run for run in records if run.state != "done"]
    columns: dict[str, Callable[[RunRecord], str]] = {
        "contender": lambda run: run.contender,
        "corpus": lambda run: run.corpus,
        "budget": lambda run: heading.budget_words(run.budget),
        "seed": lambda run: str(run.seed),
        "state": lambda run: state_text(run.state, run.reason),
    }
    caption = f"{len(missing)} of {len(records)} runs"
    return (tabulate(missing, columns, caption=caption, prose=True),) if missing else ()


def number_text(value: float | None, form: Form = ",.0f") -> str:
    """A number in a format; "" for None."""
    if value is None:
        return ""
    return format(value, form) if isinstance(form, str) else form(value)


def difference_text(difference: Difference) -> str:
    """A difference of bits per byte: the sign of a bound, then its own sign."""
    return f"{difference.sign} {difference.value:+.4f}".strip()


def interval_text(ends: tuple[float, float] | None, form: str = ".4f") -> str:
    """Both ends of an interval of bits per byte."""
    return f"{ends[0]:{form}} to {ends[1]:{form}}" if ends else ""


def state_text(state: str, reason: str) -> str:
    """The state of a run, and why."""
    return f"{state}: {one_line(reason)}" if reason else state


def _figure(name: str) -> Callable[[Entry], str]:
    """A column: the mean of a figure over the runs done, written as its unit says."""
    return lambda entry: "" if (figure := entry.figure(name)) is None else figure.number


def _mean(name: str, form: Form) -> Callable[[Entry], str]:
    """A column: the same in another format, without the sign of a bound."""
    return lambda entry: number_text(entry.mean(name), form)


def _cell(entry: Entry, name: str, form: str) -> str:
    figure = entry.figure(name)
    return "" if figure is None else f"{'≤ ' if figure.bound else ''}{figure.value:{form}}"


def _runs_done(entry: Entry) -> str:
    """Empty for a single run that is done."""
    done, runs = len(entry.done), len(entry.runs)
    return "" if done == runs == 1 else f"{done} of {runs}"


def _speed(entry: Entry) -> float | None:
    """As timed in turns, or else by the runs themselves."""
    in_turns = entry.mean("train_bytes_per_second_in_turns")
    return entry.mean("train_bytes_per_second") if in_turns is None else in_turns
