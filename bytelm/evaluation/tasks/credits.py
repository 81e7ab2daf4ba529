"""From answers to figures: credits of items, their means with intervals, and chance levels."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bytelm.core.chart import Chart, Point
from bytelm.core.figure import Figure
from bytelm.core.intervals import LEAST_DOCUMENTS, ratio, share_interval
from bytelm.evaluation.report import Items
from bytelm.evaluation.tasks.answers import NORMALISATIONS, Answered, shown
from bytelm.evaluation.tasks.item import Item

Credits = dict[str, dict[str, np.ndarray]]
"""By figure and task, the credit of each item, float64 `[items]`."""
MEASURES = ("exact_match", *(f"accuracy_{name}" for name in NORMALISATIONS))
CHANCE = "chance"
"""The end of the names of chance levels."""


def add(credits: Credits, task: str, condition: str, answered: Sequence[Answered]) -> None:
    """Adds a task's credits; `condition` comes before their names, and chance levels have none."""
    for figure in answered[0].credit:
        found = np.array([each.credit[figure] for each in answered])
        credits.setdefault(f"{condition}{figure}", {})[task] = found
    items = [each.item for each in answered]
    for figure, found in _chance(items, written="exact_match" in answered[0].credit).items():
        credits.setdefault(figure, {})[task] = found


def _chance(items: Sequence[Item], *, written: bool) -> dict[str, np.ndarray]:
    """The credits of always writing the commonest answer, or those expected of a random choice.

    An answer that is right once is no guess: where all answers differ, the chance is 0.
    """
    if not written:
        shares = [len(item.answers) / len(item.choices) for item in items]
        return {f"accuracy_{CHANCE}": np.array(shares)}
    answers = Counter(text for item in items for text in {*map(item.compared, item.answers)})
    commonest, count = answers.most_common(1)[0]
    right = [float(count > 1 and item.is_right(commonest)) for item in items]
    return {f"exact_match_{CHANCE}": np.array(right)}


def by_figure(name: str, credits: Credits, tasks: Mapping[str, Sequence[Item]]) -> dict[str, Items]:
    """The credits of each figure: of all items together and, if there are several tasks, of each.

    Items of one name in several tasks count as one that is drawn or left out with all its credits,
    such as a sentence that is translated from and into several languages.
    """
    found = {}
    for figure, by_task in credits.items():
        names = [item.name for task in by_task for item in tasks[task]]
        _, place = np.unique(names, return_inverse=True)
        sums = np.bincount(place, np.concatenate(list(by_task.values())))
        found[f"{name}/{figure}"] = Items(sums, np.bincount(place))
    if len(tasks) > 1:
        for task in tasks:
            for figure, by_task in credits.items():
                if task in by_task:
                    each = by_task[task]
                    found[f"{name}/{task}/{figure}"] = Items(each, np.ones(len(each)))
    return found


def mean(name: str, items: Items) -> Figure:
    """The mean credit, with an interval unless it is a chance level."""
    value, shares = float(items.sums.sum() / items.counts.sum()), items.sums / items.counts
    if name.endswith(CHANCE):
        return Figure(name, value, "share")
    if shares.min() < shares.max() or len(shares) < LEAST_DOCUMENTS:
        return ratio(name, items.sums, items.counts, "share")
    # A bootstrap of equal credits has no width, as if no other item could fare differently.
    return Figure(name, value, "share", *share_interval(round(value * len(shares)), len(shares)))


def charts(
    sets: Iterable[str], figures: Mapping[str, Figure], noises: Iterable[tuple[str, float]]
) -> Iterator[Chart]:
    """Credits over rates of noise: for each set and figure a chart with a line for each kind."""
    rates: dict[str, list[float]] = {}
    for kind, rate in noises:
        rates.setdefault(kind, []).append(rate)
    for name in sets if rates else ():
        for measure in MEASURES:
            if f"tasks/{name}/{measure}" not in figures:
                continue
            lines = {}
            for kind in rates:
                at = {0.0: "", **{rate: f"{kind}/{rate:g}/" for rate in sorted(rates[kind])}}
                found = {x: figures[f"tasks/{name}/{noise}{measure}"] for x, noise in at.items()}
                lines[kind] = [Point(x, each.value, each.interval) for x, each in found.items()]
            title = f"{name}: {measure.replace('_', ' ')}"
            yield Chart.of(title, "share of characters hit", "share right", lines)


def wrong(answered: Sequence[Answered], asked: Sequence[bytes], most: int) -> list[dict[str, Any]]:
    """For a report: answers without any credit, so many at most, with the questions as asked."""
    found = [
        {
            "item": each.item.name,
            "question": shown(question),
            "answers": list(map(shown, each.item.answers)),
            **each.said,
        }
        for each, question in zip(answered, asked, strict=True)
        if not any(each.credit.values())
    ]
    return found[:most]
