"""The results of several runs as sections: tables by text and settings, differences, charts."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bytelm.core.chart import Chart, Point
from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.intervals import LEAST_DOCUMENTS, bootstrap_interval
from bytelm.evaluation.page.page import Section
from bytelm.evaluation.page.tables import Table
from bytelm.evaluation.report import Items
from bytelm.experiments.results.collect import FoundRun, Measured
from bytelm.experiments.results.seeds import SAME, SEED, settings_of


@dataclass(frozen=True)
class Results:
    """All that is shown of some runs.

    Attributes:
        options: paths of config options with columns.
        groups: rows that may be compared: of one text and one choice of settings.
        baseline: label of the run that others are compared with; None for none.
        chosen: patterns of the figures to show; empty for those without a slash.
    """

    runs: Sequence[FoundRun]
    options: tuple[str, ...]
    groups: tuple[tuple[Measured, ...], ...]
    baseline: str | None
    chosen: tuple[str, ...] = ()


def results(
    runs: Sequence[FoundRun],
    rows: Sequence[Measured],
    *,
    baseline: str | None = None,
    columns: Sequence[str] = (),
) -> Results:
    """Groups the rows, and chooses columns.

    Args:
        runs, rows: from `collect`.
        baseline: label of a run.
        columns: config options, figures, or patterns of either such as "perturbed/*/bpb"; empty
            for the options that differ between runs, and the figures without a slash.

    Raises:
        UserError: for a baseline or a column that does not exist.
    """
    labels = list(dict.fromkeys([*(r.label for r in runs), *(row.run.label for row in rows)]))
    if baseline is not None and baseline not in labels:
        raise UserError(
            f"there is no run {baseline!r} for a baseline{did_you_mean(baseline, labels)}; choose "
            f"one of {', '.join(labels)}."
        )
    options = list(dict.fromkeys(name for run in runs for name in run.options))
    figures = list(dict.fromkeys(name for row in rows for name in row.figures))
    for pattern in columns:
        if not fnmatch.filter([*options, *figures], pattern):
            raise UserError(
                f"no run has an option or a figure {pattern!r}"
                f"{did_you_mean(pattern, [*figures, *options])}; {_listed(figures)}."
            )
    picked = tuple(name for name in options if matches(name, columns))
    wanted = tuple(columns) if any(matches(name, columns) for name in figures) else ()
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for row in rows:
        groups.setdefault((row.text.identity, row.settings), []).append(row)
    # Most rows first: the tables that compare.
    ordered = sorted(groups.values(), key=lambda group: -len(group))
    return Results(
        runs,
        picked or differing(runs),
        tuple(tuple(_in_order(group, labels)) for group in ordered),
        baseline,
        wanted,
    )


def _in_order(group: Sequence[Measured], labels: Sequence[str]) -> list[Measured]:
    return sorted(group, key=lambda row: (labels.index(row.run.label), row.step))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of some patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def differing(runs: Sequence[FoundRun]) -> tuple[str, ...]:
    """The options that differ between two runs of the same kinds there, and the kinds that differ.

    A family's own options are no difference from another family. Options that change no result,
    and those that say where text lies, are left out.
    """
    names = dict.fromkeys(name for run in runs for name in run.options)
    found = []
    for name in names:
        if name.startswith(SAME):
            continue
        values: dict[tuple[Any, ...], set[str]] = {}
        for run in runs:
            if name in run.options:
                values.setdefault(_kinds(run, name), set()).add(repr(run.options[name]))
        if any(len(different) > 1 for different in values.values()):
            found.append(name)
    return tuple(found)


def _kinds(run: FoundRun, name: str) -> tuple[Any, ...]:
    """The variants around an option, such as the family around a model's width."""
    parts = name.split(".")
    around = [".".join(parts[:length]) for length in range(1, len(parts))]
    keys = [f"{path}.{key}" for path in around for key in ("family", "kind")]
    return tuple(run.options.get(key) for key in keys if key != name)


def sections_of(found: Results) -> list[Section]:
    """A section for each text and choice of settings, and one for training."""
    sections = [_section(found, group) for group in found.groups]
    if training := _training(found):
        sections.append(training)
    return sections


def group_title(group: Sequence[Measured]) -> str:
    """The text and the settings of a group."""
    return "; ".join([group[0].text.words, *group[0].settings])


def _section(found: Results, group: Sequence[Measured]) -> Section:
    sentences = [f"Fingerprint of the text: {group[0].text.identity}."]
    if len(found.groups) > 1:
        sentences.append(
            "Figures of other texts or settings are in other tables, and are not compared."
        )
    base = baseline_row(found, group)
    if found.baseline is not None and base is None:
        sentences.append(
            f"{found.baseline} was not evaluated on this text with these settings, so there are no "
            "differences from it."
        )
    names = shown_figures(found, group)
    tables = [_table([_cells(found, row, names, base) for row in group], group_title(group))]
    if means := _means(found, group, names, base):
        tables.append(_table(means, "Means over seeds"))
        sentences.append(
            "Of several seeds there are means, and the lowest and the highest seed; their "
            "differences are also paired by seed."
        )
    return Section(group_title(group), tuple(sentences), tuple(tables), tuple(_charts(group)))


def _table(cells: Sequence[Mapping[str, str]], caption: str) -> Table:
    """A table without the columns that are empty."""
    columns = dict.fromkeys(name for row in cells for name in row)
    shown = tuple(name for name in columns if any(row.get(name) for row in cells))
    return Table(shown, tuple(tuple(row.get(name, "") for name in shown) for row in cells), caption)


def _means(
    found: Results, group: Sequence[Measured], names: Sequence[str], base: Measured | None
) -> list[dict[str, str]]:
    """A row of means for each setting; none if no setting has several seeds."""
    settings = settings_of(group)
    if all(len(setting.rows) < 2 for setting in settings):
        return []
    reference = next((each for each in settings if base in each.rows), None)
    rows = []
    for setting in settings:
        first = setting.rows[0]
        cells = {"runs": ", ".join(row.run.label for row in setting.rows)}
        options = (name for name in found.options if name != SEED)
        cells |= {name: option_text(first.run, name) for name in options}
        cells |= {"step": f"{first.step:,}"}
        for name in names:
            mean, spread = setting.mean(name), setting.spread(name)
            cells[name] = mean.number if mean else ""
            ends = (figure.number.removeprefix("≤ ") for figure in spread or ())
            cells[f"{name} over seeds"] = " to ".join(ends)
            less = setting.less(reference, name) if reference else None
            if less and base and name in first.figures and name in base.figures:
                figure, (low, high) = less
                words = difference_text(figure, first, base)
                of_seeds = f"; seeds {low:+.4f} to {high:+.4f}" if low < high else ""
                cells[f"{name}, less {base.run.label} and its seeds"] = words + of_seeds
        rows.append(cells)
    return rows


def shown_figures(found: Results, group: Sequence[Measured]) -> list[str]:
    """The figures with columns; all of them if each has a slash."""
    names = list(dict.fromkeys(name for row in group for name in row.figures))
    if found.chosen:
        return [name for name in names if matches(name, found.chosen)]
    return [name for name in names if "/" not in name] or names


def baseline_row(found: Results, group: Sequence[Measured]) -> Measured | None:
    """The last step of the baseline in a group."""
    rows = [row for row in group if row.run.label == found.baseline]
    return rows[-1] if rows else None


def _cells(
    found: Results, row: Measured, names: Sequence[str], base: Measured | None
) -> dict[str, str]:
    cells = {"run": row.run.label}
    cells |= {name: option_text(row.run, name) for name in found.options}
    cells |= {"step": f"{row.step:,}", "trained on of the text": row.trained_on}
    for name in names:
        figure = row.figures.get(name)
        cells[name] = figure.number if figure else ""
        if name in row.items or len(names) == 1:
            cells[f"95% interval of {name}"] = figure.interval_text if figure else ""
        less = difference(name, row, base)
        if less is not None and base is not None:
            cells[f"{name}, less {base.run.label}"] = difference_text(less, row, base)
    return cells


def difference_text(less: Figure, row: Measured, base: Measured) -> str:
    """A difference with its interval; with a sign if it is at most, or at least, this."""
    bounds = row.figures[less.name].bound, base.figures[less.name].bound
    sign = {(True, False): "≤ ", (False, True): "≥ "}.get(bounds, "")
    ends = " ({:+.4f} to {:+.4f})".format(*less.interval) if less.interval else ""
    return f"{sign}{less.value:+.4f}{ends}"


def option_text(run: FoundRun, name: str) -> str:
    """An option of a run; "" if it has none of that name."""
    value = run.options.get(name, "")
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def difference(name: str, row: Measured, base: Measured | None) -> Figure | None:
    """A figure of a row less that of the baseline, paired by document or question.

    The interval is a bootstrap that resamples them; None without `LEAST_DOCUMENTS` of them.

    Returns:
        None for the baseline itself, or if the parts of one of them are unknown.
    """
    if base is None or row is base or name not in row.items or name not in base.items:
        return None
    ours, theirs = row.items[name], base.items[name]
    if not _same_counts(ours, theirs) or not ours.counts.sum():
        return None
    less = ours.sums - theirs.sums
    low, high = bootstrap_interval(less, ours.counts) or (None, None)
    return Figure(name, float(less.sum() / ours.counts.sum()), low=low, high=high)


def _same_counts(ours: Items, theirs: Items) -> bool:
    return np.array_equal(ours.counts, theirs.counts)


def _charts(group: Sequence[Measured]) -> Iterator[Chart]:
    """The charts of a group; where several rows have one, each of its lines has a chart."""
    titles = dict.fromkeys(title for row in group for title in row.charts)
    for title in titles:
        rows = {_row_label(group, row): row.charts[title] for row in group if title in row.charts}
        if len(rows) == 1:
            yield from rows.values()
            continue
        # A row has the same colour in all charts of its group, those that it is missing from too.
        labels = [_row_label(group, row) for row in group]
        lines: dict[str, dict[str, list[Point]]] = {}
        for label, chart in rows.items():
            for series in chart.series:
                points = lines.setdefault(series.label, {name: [] for name in labels})[label]
                points += [point for path in series.paths for point in path]
        for name, by_row in lines.items():
            words = f"{title}: {name}" if len(lines) > 1 else title
            yield _together(words, rows, by_row)


def _together(
    title: str, rows: Mapping[str, Chart], points: Mapping[str, Sequence[Point]]
) -> Chart:
    """A chart of points of several rows' charts."""
    first = next(iter(rows.values()))
    if not first.bars:
        return Chart.of(title, first.x, first.y, points, log_x=first.log_x, log_y=first.log_y)
    shares = {
        label: {rows[label].bars[int(point.x)]: point.y for point in found}
        for label, found in points.items()
    }
    return Chart.histogram(title, first.x, first.y, shares)


def _row_label(group: Sequence[Measured], row: Measured) -> str:
    several = sum(other.run is row.run for other in group) > 1
    return f"{row.run.label}, step {row.step}" if several else row.run.label


def _training(found: Results) -> Section | None:
    """What the runs recorded of their training, and their curves."""
    rows = []
    for run in found.runs:
        if not run.records:
            continue
        validation = [bits for _, bits in _validations(run)]
        last = run.records[-1]
        rows.append(
            (
                run.label,
                *(option_text(run, name) for name in found.options),
                f"{last['step']:,}",
                f"{last['bytes']:,}" if "bytes" in last else "",
                f"{last['flops']:.3g}" if "flops" in last else "",
                f"{validation[-1]:.4f}" if validation else "",
                f"{min(validation):.4f}" if validation else "",
            )
        )
    if not rows:
        return None
    columns = (
        "run",
        *found.options,
        "step",
        "bytes read",
        "FLOPs",
        "validation",
        "best validation",
    )
    table = Table(columns, tuple(rows), "Training so far, and bits per byte of the validation")
    sentence = "Each run is validated on the rows of its own validation text during training."
    return Section("Training", (sentence,), (table,), tuple(curves(found.runs)))


def curves(runs: Sequence[FoundRun]) -> list[Chart]:
    """Validation during training, over training FLOPs."""
    lines = {
        run.label: [Point(record["flops"], bits) for record, bits in _validations(run)]
        for run in runs
        if all("flops" in record for record, _ in _validations(run))
    }
    chart = Chart.of(
        "Validation during training", "training FLOPs", "bits per byte", lines,
        log_x=True, log_y=True, marks_ends=True,
    )  # fmt: skip
    return [chart] if chart.series else []


def _validations(run: FoundRun) -> list[tuple[Mapping[str, Any], float]]:
    """The records of validations, and their bits."""
    names = ("validation_bpb", "validation_bits_per_target_byte")
    return [
        (record, record[name])
        for record in run.records
        for name in names
        if record.get(name) is not None
    ]


HOW_TO_READ = (
    "A difference is paired by document (or question) of the same text. The 95% interval in "
    f"brackets is a bootstrap over them, and needs at least {LEAST_DOCUMENTS}. If it contains 0, "
    "they do not tell the two apart. It does not show how far a difference depends on the seed. "
    "≤ and ≥ say that the true figure or difference is at most, or at least, this."
)


def _listed(figures: Sequence[str]) -> str:
    if not figures:
        return "there are no figures, because nothing was evaluated"
    plain = [name for name in figures if "/" not in name]
    parts = len(figures) - len(plain)
    more = f" and {parts} with a slash, which --format csv shows" if parts else ""
    return f"figures are {', '.join(plain)}{more}"
