"""The sections of a report: sentences, tables and charts."""

import collections
from collections.abc import Sequence

from bytelm.core.intervals import LEAST_DOCUMENTS
from bytelm.evaluation.page.page import Section
from bytelm.evaluation.text import describe_text, shared_windows
from bytelm.experiments.records import MEASURES, Heading, RunRecord
from bytelm.experiments.report.charts import cost_charts, curve_charts
from bytelm.experiments.report.summary import Entry, gather, groups
from bytelm.experiments.report.tables import (
    BREAKDOWNS,
    best_at_an_edge,
    breakdown_tables,
    difference_table,
    differences,
    result_table,
    sweep_table,
    unfinished_tables,
)


def sections_of(heading: Heading, records: Sequence[RunRecord]) -> list[Section]:
    """The sections that have something to say."""
    entries = gather(records)
    sections = [
        *(_results(heading, *each) for each in groups(heading, entries)),
        *chart_sections(heading, entries),
        *(_breakdown(heading, entries, prefix) for prefix in BREAKDOWNS),
        _sweep(heading),
        Section("Runs that are not done", (), unfinished_tables(heading, records)),
        _how_to_read(heading, entries),
    ]
    return [section for section in sections if section.sentences or section.tables]


def progress(records: Sequence[RunRecord]) -> str:
    """How many runs are done, and the states of the others."""
    counts = collections.Counter(run.state for run in records)
    done = f"{counts.pop('done', 0)} of {len(records)} runs done"
    return ", ".join([done, *(f"{count} {state}" for state, count in counts.items())])


def _results(heading: Heading, title: str, group: Sequence[Entry]) -> Section:
    """The figures of one corpus and budget, and the differences from the baseline."""
    title = title or "Results"
    if not any(entry.done for entry in group):
        return Section(title, ("No run is done yet.",))
    tables = [result_table(heading, group)]
    found, missing = differences(heading, group)
    if found:
        tables.append(difference_table(heading, found))
    sentences = trained_on(group)
    sentence = (
        f"Not compared with {heading.baseline}, for lack of a common seed and common test "
        f"documents: {', '.join(missing)}."
    )
    return Section(title, (*([sentence] if missing else []), *sentences), tuple(tables))


def trained_on(group: Sequence[Entry]) -> list[str]:
    """Says which contenders were trained on some of the test text."""
    found: dict[str, str] = {}
    for entry in group:
        for run in entry.done:
            if run.text and (run.text["trained_on_bytes"] or shared_windows(run.text)):
                found[entry.contender] = describe_text(run.text)
    return [f"The test text of {name}: {words}." for name, words in found.items()]


def chart_sections(heading: Heading, entries: Sequence[Entry]) -> list[Section]:
    """The sections of charts, including those without any chart yet."""
    bits = MEASURES[heading.measure].capitalize()
    sections = []
    for label, figure, image, by_budget, front in _costs(heading):
        charts = cost_charts(heading, entries, figure, label, by_budget=by_budget, front=front)
        sentences = (_FRONT,) if charts and front else ()
        title = f"{bits} against {label}"
        sections.append(Section(title, sentences, (), tuple(charts), image))
    charts = curve_charts(heading, entries)
    sentence = f"Validation {MEASURES[heading.measure]} during training, a line for each seed."
    sentences = (sentence,) if charts else ()
    return [*sections, Section("Learning curves", sentences, (), tuple(charts), "curves.png")]


_FRONT = "The dashed line is the Pareto front: no contender is better at the same or a lower cost."


def _costs(heading: Heading) -> list[tuple[str, str, str, bool, bool]]:
    """Costs on the x-axis: label, figure, file, a chart per budget, a Pareto front."""
    if heading.measure == "bits_per_target_byte":
        return [("share of the inputs kept", "kept", "pareto_kept.png", True, True)]
    if heading.axis == "steps":
        return [
            # Longer patches are not a cost, so there is no front.
            ("bytes per patch", "bytes_per_patch", "patches.png", True, False),
            ("forward FLOPs per byte", "forward_flops_per_byte", "pareto_forward.png", True, True),
        ]
    inference = "inference FLOPs per byte"
    by_budget = heading.axis != "inference_flops"
    return [
        ("training FLOPs", "train_flops", "pareto_train.png", False, True),
        (inference, "inference_flops_per_byte", "pareto_inference.png", by_budget, True),
    ]


_NEXT_BYTES = (
    "Subword models predict next bytes along the canonical tokens: they know where tokens end, "
    "which flatters them within words."
)


def _breakdown(heading: Heading, entries: Sequence[Entry], prefix: str) -> Section:
    tables = [
        table
        for title, group in groups(heading, entries)
        for table in breakdown_tables(heading, title, group, prefix)
    ]
    subwords = prefix == "perturbed" and any(entry.upper_bound for entry in entries)
    sentences = (_NEXT_BYTES,) if subwords and tables else ()
    return Section(BREAKDOWNS[prefix][0], sentences, tuple(tables))


def _sweep(heading: Heading) -> Section:
    if not heading.sweep:
        return Section("Learning rates")
    names = best_at_an_edge(heading.sweep)
    sentence = f"A better rate may lie beyond those tried, of: {', '.join(names)}."
    return Section("Learning rates", (sentence,) if names else (), (sweep_table(heading),))


def _how_to_read(heading: Heading, entries: Sequence[Entry]) -> Section:
    of_text = heading.measure == "bpb"
    measured = (
        "bpb: bits per byte of the test text's raw bytes, without the ends of documents"
        if of_text
        else "Bits per target byte: bits of the test targets, divided by their bytes"
    )
    sentences = [
        f"{measured}; lower is better. The 95% interval is a bootstrap over documents, and needs "
        f"at least {LEAST_DOCUMENTS} that are not empty; over seeds it is the mean of the "
        "intervals' ends. “over seeds” gives the lowest and the highest seed. A cell is empty if "
        "the figure is unknown or the family does not have it.",
        f"Differences from {heading.baseline} are of the same documents, and of the seeds that "
        "both have done: for each document the mean over seeds of the difference in bits, then a "
        "bootstrap that resamples documents and divides the sum of bits by the sum of bytes. The "
        "interval shows how far a difference depends on the documents, not on the seed. If it "
        "contains 0, these documents do not tell the two apart.",
    ]
    if any(entry.mean("inference_flops_per_byte") for entry in entries):
        sentences.insert(
            1,
            "Inference FLOPs per byte count the patches that the test text had; “at capacity” "
            "counts all slots.",
        )
    if any(entry.upper_bound for entry in entries):
        sentences.append(
            "≤ marks an upper bound: the bits of a subword model's canonical tokenisation, one of "
            "several that give the same text. The true bits of the text are at most these. Before "
            "a difference, ≤ and ≥ say that the true one is at most, or at least, this: with ≤ "
            "“lower” holds and “higher” may not, with ≥ the reverse. A difference of two upper "
            "bounds has no mark."
        )
    return Section("How to read this", (*sentences, *heading.notes))
