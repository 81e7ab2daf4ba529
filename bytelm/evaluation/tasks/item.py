"""An item of a task: a question, its right answers, and what is read around it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

NEWLINE = b"\n"


@dataclass(frozen=True)
class Item:
    """A question of a task.

    Attributes:
        task: name of the task within its set, such as "spell"; "" if the set has one task.
        name: of the item in reports.
        number: place in the set, from 0.
        question: what noise may change, and all that an encoder reads.
        answers: the right ones, at least one.
        prompt: read before the examples and the question, such as instructions.
        lead: read after the question, such as `Answer:`.
        choices: of these a model chooses one; empty if there is no choice. All answers are in it.
        writes: whether the answer is written.
        stop: a written answer ends before the first of these; in an example the first one follows
            the answer.
        ignores_case: whether written answers are compared in lower case.
    """

    task: str
    name: str
    number: int
    question: bytes
    answers: tuple[bytes, ...]
    prompt: bytes = b""
    lead: bytes = b""
    choices: tuple[bytes, ...] = ()
    writes: bool = True
    stop: tuple[bytes, ...] = (NEWLINE,)
    ignores_case: bool = False

    def compared(self, text: bytes) -> bytes:
        """What of a written text is compared: all but white space around it."""
        return text.strip().lower() if self.ignores_case else text.strip()

    def is_right(self, text: bytes) -> bool:
        """Whether a written text is one of the answers."""
        return self.compared(text) in map(self.compared, self.answers)

    @property
    def example(self) -> bytes:
        """The question with its answer, as lines of a prompt."""
        text = self.question + self.lead + self.answers[0] + self.stop[0]
        return text if text.endswith(NEWLINE) else text + NEWLINE

    def context(self, examples: bytes, question: bytes) -> bytes:
        """All that a decoder reads before the answer, with a `question` that may have noise."""
        return self.prompt + examples + question + self.lead


@dataclass(frozen=True)
class ItemSet:
    """The items of a file.

    Attributes:
        name: in the figures.
        form: of the file, such as "cute".
        documents: of a file whose lines are documents; empty where each line is a question.
    """

    name: str
    form: str
    items: Sequence[Item] = field(repr=False)
    documents: Sequence[bytes] = field(default=(), repr=False)

    @property
    def by_task(self) -> dict[str, list[Item]]:
        """The items of each task, tasks in the order of the file."""
        found: dict[str, list[Item]] = {}
        for item in self.items:
            found.setdefault(item.task, []).append(item)
        return found

    @property
    def texts(self) -> Sequence[bytes]:
        """The texts that a run would have trained on, if it had read the file."""
        return self.documents or [item.question for item in self.items]
