"""The formats of task files, which are JSON lines, compressed or not.

The first line of a file decides its format. Keys in brackets may be missing; other keys do not
matter. All texts are read as they are: not a space is added or taken away.

- "questions", the format of LangGame and of one's own tasks: `question` and `answer` (a string or
  a list of right ones), `[options]` to choose from, with the answers among them, `[type]` the name
  of the task, `[id]`, `[prompt]` with instructions and examples before the question, `[stop]`, one
  or several strings that end a written answer (by default the end of the line). With options the
  answer is chosen, otherwise written. An option or answer follows its question directly, so it
  begins with the space that is to be between them.
- "cute": `task`, one of the 14, `input1`, `[input2]`, `[input3]`, `label`; prompts are those of
  `bytelm.evaluation.tasks.cute`. Answers are written; where they are few, they are also chosen.
- "spelling": `typo` and `fix`, a string or a list of right ones; the answer is written.
- "parallel": `id`, `lang` and `text`, as for the evaluation `languages`; one chooses the
  translation of a sentence (`bytelm.evaluation.tasks.translations`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bytelm.core.checked import did_you_mean
from bytelm.core.errors import UserError
from bytelm.data.sources.file_formats import endings
from bytelm.data.sources.json_objects import JsonObject, json_objects
from bytelm.data.sources.local_files import find_files
from bytelm.evaluation.tasks import cute, translations
from bytelm.evaluation.tasks.item import NEWLINE, Item, ItemSet

SPELLING = b"Correct the spelling of each word.\n\n"


@dataclass(frozen=True)
class Format:
    """A format of lines with an item each, known by its keys."""

    keys: tuple[str, ...]
    item: Callable[[JsonObject, int], Item]
    others: tuple[str, ...] = ()  # keys that may be missing


def read_sets(patterns: Sequence[str], reference: str) -> list[ItemSet]:
    """The items of each file that matches, with a name for each file.

    Args:
        patterns: of the files.
        reference: in parallel text, the language that is translated from and into.

    Raises:
        UserError: for a file that cannot be read, a line of an unknown format or with a key
            missing, and two files of one name.
    """
    sets: dict[str, ItemSet] = {}
    for path in find_files(patterns, "tasks.files"):
        name = set_name(path)
        if name in sets:
            raise UserError(
                f"two task files are called {name}, which is the name in their figures; rename or "
                "link one."
            )
        form = _form(path)
        if form == "parallel":
            sets[name] = translations.read_translations(path, name, reference)
        else:
            sets[name] = ItemSet(name, form, list(_items(path, FORMATS[form])))
        _check_tasks(sets[name])
    return list(sets.values())


def set_name(path: Path) -> str:
    """A file's name without the endings of format and compression."""
    return path.name[: len(path.name) - len("".join(endings(path)))]


def _form(path: Path) -> str:
    """The format of a file, by the keys of its first line."""
    for line in json_objects(path):
        for form, keys in FORMS.items():
            # Two keys are enough, so that a missing one is told as that.
            if sum(key in line for key in keys) >= min(2, len(keys)):
                return form
        forms = "; ".join(f"{form} has {', '.join(keys)}" for form, keys in FORMS.items())
        raise UserError(
            f"{line.where} has the keys {', '.join(line.fields)}, those of no format of tasks: "
            f"{forms}."
        )
    raise UserError(f"{path} holds no line; give a file of tasks.")


def _items(path: Path, form: Format) -> Iterator[Item]:
    for number, line in enumerate(json_objects(path)):
        for key in form.keys:
            if key not in line:
                raise UserError(
                    f"{line.where} has no {key!r}, and each line of this file needs "
                    f"{', '.join(form.keys)}; it has {', '.join(line.fields)}."
                )
        item = form.item(line, number)
        _check(item, line.where)
        yield item


def _check(item: Item, where: str) -> None:
    """Raises UserError for answers that cannot be written or chosen."""
    for answer in item.answers:
        for stop in item.stop if item.writes else ():
            if stop in answer:
                raise UserError(
                    f"{where}: the answer {answer.decode()!r} has the stop {stop.decode()!r} in "
                    "it, so it is never written whole; give another 'stop'."
                )
        if item.choices and answer not in item.choices:
            raise UserError(
                f"{where}: the answer {answer.decode()!r} is not among the options; they are "
                f"{', '.join(repr(choice.decode()) for choice in item.choices)}."
            )
    if item.choices and (len(set(item.choices)) < len(item.choices) or not all(item.choices)):
        raise UserError(f"{where}: an option is empty, or there twice.")
    if len(item.choices) == 1:
        raise UserError(f"{where} has one option; give two at least.")
    if item.choices and len(item.answers) == len(item.choices):
        raise UserError(f"{where}: all options are right; give one that is wrong.")


def _check_tasks(items: ItemSet) -> None:
    """Raises UserError for tasks whose figures would be of different things, or of one name."""
    tasks = items.by_task
    if "" in tasks and len(tasks) > 1:
        raise UserError(
            f"some lines of {items.name} have a 'type' and some have none, such as item "
            f"{tasks[''][0].name}; give one to all lines or to none."
        )
    for task, of_task in tasks.items():
        if len({bool(item.choices) for item in of_task}) > 1:
            raise UserError(
                f"some lines of {items.name} {task}".rstrip() + " have options and some have none; "
                "tell them apart by their 'type'."
            )


def _encoded(texts: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)


def _name(line: JsonObject, number: int) -> str:
    return str(line.fields.get("id", number))


def _question(line: JsonObject, number: int) -> Item:
    chosen = "options" in line
    stop = _encoded(line.texts("stop")) if "stop" in line else (NEWLINE,)
    if not all(stop):
        raise UserError(f"{line.where}: a stop is empty; give at least one character.")
    return Item(
        task=line.text("type") if "type" in line else "",
        name=_name(line, number),
        number=number,
        question=line.text("question").encode(),
        answers=_encoded(line.texts("answer")),
        prompt=line.text("prompt").encode() if "prompt" in line else b"",
        choices=_encoded(line.texts("options")) if chosen else (),
        writes=not chosen,
        stop=stop,
    )


def _cute(line: JsonObject, number: int) -> Item:
    task = line.text("task").removesuffix("_rand")
    if task not in cute.PROMPTS:
        raise UserError(
            f"{line.where}: CUTE has no task {task!r}{did_you_mean(task, cute.PROMPTS)}; it has "
            f"{', '.join(cute.PROMPTS)}."
        )
    prompt = cute.PROMPTS[task]
    inputs = [line.text(f"input{place}") for place in range(1, prompt.inputs + 1)]
    return Item(
        task=line.text("task"),
        name=_name(line, number),
        number=number,
        question=prompt.question(inputs).encode(),
        answers=(line.text("label").encode(),),
        prompt=prompt.text.encode(),
        lead=cute.LEAD.encode(),
        choices=_encoded(cute.choices(task, inputs)),
        stop=(cute.QUOTE.encode(), NEWLINE),
        ignores_case=cute.ignores_case(task),
    )


def _spelling(line: JsonObject, number: int) -> Item:
    return Item(
        task="",
        name=_name(line, number),
        number=number,
        question=line.text("typo").encode(),
        answers=tuple(b" " + fix for fix in _encoded(line.texts("fix"))),
        prompt=SPELLING,
        lead=b" ->",
    )


FORMATS = {
    "cute": Format(("task", "input1", "label"), _cute),
    "spelling": Format(("typo", "fix"), _spelling),
    "questions": Format(("question", "answer"), _question),
}
FORMS = {"parallel": translations.KEYS, **{name: form.keys for name, form in FORMATS.items()}}
"""The keys of all formats."""
