"""From answers to figures: credits of items, their means with intervals, and chance levels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bytelm.core.figure import Figure
from bytelm.core.intervals import LEAST_DOCUMENTS, ratio, share_interval
from bytelm.evaluation.tasks.answers import Answered, shown
from bytelm.evaluation.tasks.item import Item

Credits = dict[str, dict[str, np.ndarray]]
"""By figure and task, the credit of each item, float64 `[items]`."""
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
    """The credits of always writing the commonest answer, or those expected of a random choice."""
    if not written:
        shares = [len(item.answers) / len(item.choices) for item in items]
        return {f"accuracy_{CHANCE}": np.array(shares)}
    answers = Counter(text for item in items for text in {*map(item.compared, item.answers)})
    commonest = answers.most_common(1)[0][0]
    right = [float(item.is_right(commonest)) for item in items]
    return {f"exact_match_{CHANCE}": np.array(right)}


def by_figure(name: str, credits: Credits, tasks: Iterable[str]) -> dict[str, np.ndarray]:
    """The credits of each figure: of all items, where there are several tasks, and of each task."""
    tasks = list(tasks)
    found = {}
    if len(tasks) > 1:
        for figure, by_task in credits.items():
            found[f"{name}/{figure}"] = np.concatenate(list(by_task.values()))
    for task in tasks:
        prefix = f"{name}/{task}" if task else name
        for figure, by_task in credits.items():
            if task in by_task:
                found[f"{prefix}/{figure}"] = by_task[task]
    return found


def mean(name: str, credit: np.ndarray) -> Figure:
    """The mean credit of items, with an interval unless it is a chance level."""
    if name.endswith(CHANCE):
        return Figure(name, float(credit.mean()), "share")
    if credit.min() < credit.max() or len(credit) < LEAST_DOCUMENTS:
        return ratio(name, credit, np.ones(len(credit)), "share")
    # A bootstrap of equal credits has no width, as if no other item could fare differently.
    low, high = share_interval(int(credit.sum()), len(credit))
    return Figure(name, float(credit.mean()), "share", low, high)


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
