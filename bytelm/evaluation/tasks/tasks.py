"""The evaluation of tasks from files.

A decoder reads the prompt, the examples and the question of an item, and writes or chooses the
answer. An encoder reads the question alone, as in training with pairs, and its decoder writes the
answer, also where others choose it.

With noise, only the question is changed, and not examples, choices and answers. So the right answer
stays that of the clean question, even where noise changes what is asked, as in CUTE's tasks on the
characters of a word: the figures compare models, and 100% may be out of reach.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import number_of
from bytelm.data.progress import shown_progress
from bytelm.data.sources.contents import content_digests
from bytelm.data.sources.local_files import find_files
from bytelm.evaluation.perturbations import Noise, check_noise, perturb
from bytelm.evaluation.report import Items, Result
from bytelm.evaluation.suite import Evaluation, Scoring
from bytelm.evaluation.tasks.answers import answer, shown
from bytelm.evaluation.tasks.credits import CHANCE, Credits, add, by_figure, charts, mean, wrong
from bytelm.evaluation.tasks.examples import draw_examples, spread
from bytelm.evaluation.tasks.formats import read_sets
from bytelm.evaluation.tasks.item import Item, ItemSet
from bytelm.evaluation.text import EvaluationText, own_text


@dataclass(frozen=True)
class Tasks(Evaluation):
    """Exact match and multiple choice on tasks from files: CUTE, LangGame, spelling, your own."""

    name: ClassVar[str] = "tasks"
    reads_text: ClassVar[bool] = False
    choosing: ClassVar[tuple[str, ...]] = ("noise", "rates", "kept")

    files: tuple[str, ...] = ()
    """Globs of JSON lines: CUTE, LangGame, spelling, parallel text, or questions of your own."""
    shots: int = 0
    """Examples before each question, besides those in the file's own prompts."""
    shots_from: tuple[str, ...] = ()
    """Globs of files to draw them from; none = the scored files, which then leave them out."""
    max_items: int | None = None
    """Items of each task, spread over the file; none = all."""
    noise: tuple[Noise, ...] = ()
    """Kinds of noise on the questions, which are scored clean too."""
    rates: tuple[float, ...] = (0.1,)
    """Shares of the characters that are hit, 0 to 1."""
    seed: int = 0
    """Seed of the noise, and of the draw of examples."""
    reference: str = "eng"
    """In parallel text, the language that is translated from and into."""
    covers: int | None = None
    """For a subword model: token histories kept at each byte, whose sum gives the probabilities of
    bytes; none = tokens."""
    kept: int = 20
    """Wrong answers to each task that the report keeps."""

    def __post_init__(self) -> None:
        self.require_positive("max_items", "covers")
        self.require("it must be at least 0", lambda x: x >= 0, "shots", "kept")

    def check(self, loaded: LoadedModel) -> None:
        super().check(loaded)
        if not self.files:
            raise UserError("the evaluation tasks needs files; name them with tasks.files.")
        for kind, rate in self._noises:
            check_noise(kind, rate)
        if self.covers is not None and loaded.tokenizer is None:
            raise UserError("the model's symbols are bytes; leave out tasks.covers.")
        for items, _ in self._read():
            if loaded.has_encoder and items.form == "parallel":
                raise UserError(
                    f"{items.name} is parallel text, whose translations are chosen, and a model "
                    "with an encoder only writes answers; leave the file out."
                )

    def run(self, loaded: LoadedModel, text: EvaluationText, scoring: Scoring) -> Result:
        """Figures `tasks/FILE/` and, for each of several tasks of a file, `tasks/FILE/TASK/`:
        `exact_match` of written answers; `accuracy_sum`, `accuracy_per_byte` and
        `accuracy_unconditional` of choices; `exact_match_chance`, for always writing the commonest
        answer, and `accuracy_chance`, for choosing at random. With noise, KIND/RATE/ comes before
        the last part.
        """
        paths = find_files((*self.files, *self.shots_from), "tasks.files")
        digests = dict(zip(map(str, paths), content_digests(paths, None), strict=True))
        items: dict[str, Items] = {}
        notes, sets, texts = list[str](), dict[str, Any](), list[bytes]()
        for each, examples in self._read():
            found, sets[each.name] = self._evaluate(loaded, each, examples, scoring)
            items |= found
            texts += each.texts
            notes.append(f"{each.name}: {number_of(len(each.items), 'item')}")
        figures = {name: mean(name, credit) for name, credit in items.items()}
        return Result(
            tuple(figures.values()),
            tuple(notes),
            {"files": digests, "sets": sets},
            items={name: credit for name, credit in items.items() if not name.endswith(CHANCE)},
            charts=tuple(charts(sets, figures, self._noises)),
            text=own_text(loaded, texts, ", ".join(sets)),
        )

    @property
    def _noises(self) -> list[tuple[Noise, float]]:
        return [(kind, rate) for kind in self.noise for rate in self.rates]

    def _read(self) -> Iterator[tuple[ItemSet, Mapping[str, bytes]]]:
        """The items of each file to score, and the examples of each task."""
        others = read_sets(self.shots_from, self.reference) if self.shots_from else []
        for items in read_sets(self.files, self.reference):
            left, examples = draw_examples(items, others, self.shots, self.seed)
            yield spread(left, self.max_items), examples

    def _evaluate(
        self, loaded: LoadedModel, items: ItemSet, examples: Mapping[str, bytes], scoring: Scoring
    ) -> tuple[dict[str, Items], dict[str, Any]]:
        """The credits of each figure of a file, and details of each task."""
        conditions = [None, *self._noises]
        tasks = items.by_task
        credits: Credits = {}
        details: dict[str, Any] = {task: {"items": len(each)} for task, each in tasks.items()}
        count = len(items.items) * len(conditions)
        with shown_progress(f"answering {items.name}", count, counts=True) as done:
            for task, noise in itertools.product(tasks, conditions):
                name = "" if noise is None else f"{noise[0]}/{noise[1]:g}/"
                asked = [self._asked(item, noise) for item in tasks[task]]
                read = asked if loaded.has_encoder else _contexts(tasks[task], asked, examples)
                details[task].setdefault("context", shown(read[0]))
                answers = answer(loaded, tasks[task], read, scoring.batch_size, self.covers)
                for way, answered in answers:
                    add(credits, task, name, answered)
                    details[task][f"{name}{way}_wrong"] = wrong(answered, asked, self.kept)
                done(len(asked))
        return by_figure(f"tasks/{items.name}", credits, tasks), details

    def _asked(self, item: Item, noise: tuple[Noise, float] | None) -> bytes:
        """The question of an item, with noise."""
        if noise is None:
            return item.question
        return perturb(item.question, *noise, seed=self.seed, document=item.number)


def _contexts(
    items: Sequence[Item], asked: Sequence[bytes], examples: Mapping[str, bytes]
) -> list[bytes]:
    """What a decoder reads before each answer, with the questions as they are asked."""
    return [
        item.context(examples.get(item.task, b""), question)
        for item, question in zip(items, asked, strict=True)
    ]
