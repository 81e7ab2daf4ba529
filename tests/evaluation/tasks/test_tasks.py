import json

import numpy as np
import pytest

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.evaluation.perturbations import perturb
from bytelm.evaluation.suite import Scoring, evaluate
from bytelm.evaluation.tasks.tasks import Tasks
from bytelm.evaluation.text import GivenText
from bytelm.inference.batching import Prompt
from bytelm.inference.continuations import Score
from bytelm.inference.stopping import StopFilter
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.models.compiled import LENGTH, split_model
from tests.models.families import FAMILIES

SPELL = [
    {"id": word, "task": "spell", "input1": word, "label": " ".join(word)}
    for word in ("the", "and", "house", "sun", "moon", "stars")
]
CONTAINS = [
    {"task": "contains_char", "input1": letter, "input2": "word", "label": label}
    for letter, label in zip("wxordy", ["Yes", "No", "Yes", "Yes", "Yes", "No"], strict=True)
]
GAMES = [
    {"type": kind, "question": f"{question}? Answer:", "answer": " b", "options": [" a", " b"]}
    for kind in ("first", "second")
    for question in ("Which one", "Which")
]


class Stub:
    """A model that knows what follows the end of a text."""

    has_encoder, tokenizer, text_record = False, None, None

    def __init__(self, answers, after=b'"\n, and so on'):
        self.answers, self.after, self.read = answers, after, []

    def known(self, context):
        return next((value for key, value in self.answers.items() if context.endswith(key)), b"?")

    def complete(self, prompts, *, rows, temperature, stop):
        assert temperature == 0
        for prompt in prompts:
            self.read.append(prompt.text)
            text = self.known(prompt.text) + self.after
            yield StopFilter(stop, prompt.max_bytes).feed(np.frombuffer(text, np.uint8))

    def score_continuations(self, pairs, *, covers, rows):
        for number, (context, continuation) in reversed(list(enumerate(pairs))):
            self.read.append(context)
            right = continuation == self.known(context)
            yield number, Score(len(continuation) * (0.5 if right else 2.0), right)


def oracle(tmp_path):
    """A stub that knows all answers of `files(tmp_path)`."""
    answers = {f'word "{line["input1"]}". Answer: "': line["label"] for line in SPELL}
    answers |= {f'"{line["input1"]}" in "word"? Answer: "': line["label"] for line in CONTAINS}
    answers |= {line["question"]: line["answer"] for line in GAMES}
    return Stub({key.encode(): value.encode() for key, value in answers.items()})


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def files(tmp_path):
    return write(tmp_path / "cute.jsonl", SPELL + CONTAINS), write(tmp_path / "games.jsonl", GAMES)


def run(model, *names, **options):
    result = Tasks(files=names, **options).run(model, GivenText(()), Scoring())
    return {figure.name: figure for figure in result.figures}, result


def test_a_model_that_knows_the_answers_gets_all_of_them(tmp_path):
    figures, result = run(oracle(tmp_path), *files(tmp_path))
    values = {name: figure.value for name, figure in figures.items()}
    chances = {name: values.pop(name) for name in list(values) if name.endswith("chance")}
    assert set(values.values()) == {1.0}
    assert list(values) == [
        "tasks/cute/exact_match",
        "tasks/cute/accuracy_sum",
        "tasks/cute/accuracy_per_byte",
        "tasks/cute/accuracy_unconditional",
        "tasks/cute/spell/exact_match",
        "tasks/cute/contains_char/exact_match",
        "tasks/cute/contains_char/accuracy_sum",
        "tasks/cute/contains_char/accuracy_per_byte",
        "tasks/cute/contains_char/accuracy_unconditional",
        *(
            f"tasks/games/{task}accuracy_{ending}"
            for task in ("", "first/", "second/")
            for ending in ("sum", "per_byte", "unconditional")
        ),
    ]
    assert chances == pytest.approx(
        {
            "tasks/cute/exact_match_chance": 4 / 12,
            "tasks/cute/accuracy_chance": 1 / 2,
            "tasks/cute/spell/exact_match_chance": 0,
            "tasks/cute/contains_char/exact_match_chance": 4 / 6,
            "tasks/cute/contains_char/accuracy_chance": 1 / 2,
            "tasks/games/accuracy_chance": 1 / 2,
            "tasks/games/first/accuracy_chance": 1 / 2,
            "tasks/games/second/accuracy_chance": 1 / 2,
        }
    )
    # A bootstrap of equal credits would say 100% to 100%; fewer than 10 items have no interval.
    assert figures["tasks/cute/exact_match"].low == pytest.approx(0.757, abs=1e-3)
    assert figures["tasks/cute/spell/exact_match"].interval is None
    assert result.notes == ("cute: 12 items", "games: 4 items")
    assert set(result.items) == set(values)  # chance levels are no figures of a model
    assert result.items["tasks/cute/spell/exact_match"].sums.tolist() == [1] * 6
    assert result.items["tasks/cute/exact_match"].counts.tolist() == [1] * 12
    assert result.details["sets"]["cute"]["spell"] | {"context": ""} == {
        "items": 6,
        "context": "",
        "written_wrong": [],
    }


def test_items_of_one_name_are_drawn_together(tmp_path):
    """Otherwise the interval of sentences in many languages is too narrow."""
    lines = [
        {"id": str(n), "type": kind, "question": f"q{n}.", "answer": "b", "options": ["a", "b"]}
        for kind in "xyz"
        for n in range(20)
    ]
    model = Stub({f"q{n}.".encode(): b"b" for n in range(10)})
    figures, result = run(model, write(tmp_path / "a.jsonl", lines))
    pooled, single = figures["tasks/a/accuracy_sum"], figures["tasks/a/x/accuracy_sum"]
    assert pooled.value == single.value == 0.75  # half are known, and half are ties
    assert (pooled.low, pooled.high) == pytest.approx((single.low, single.high), abs=0.03)
    assert len(result.items["tasks/a/accuracy_sum"].sums) == 20


def test_wrong_answers_are_kept_with_what_was_asked(tmp_path):
    wrong = Stub({b'word "sun". Answer: "': b"s u n", b"Which? Answer:": b" b"}, after=b"")
    figures, result = run(wrong, *files(tmp_path), kept=2)
    assert figures["tasks/cute/spell/exact_match"].value == pytest.approx(1 / 6)
    assert figures["tasks/games/first/accuracy_sum"].value == 0.75  # two equal choices share
    sets = result.details["sets"]
    assert sets["cute"]["spell"]["written_wrong"] == [
        {
            "item": word,
            "question": f'Question: Spell out the word "{word}".',
            "answers": [" ".join(word)],
            "written": "?",
        }
        for word in ("the", "and")
    ]
    assert sets["games"]["first"]["chosen_wrong"] == []
    (first, _) = sets["cute"]["contains_char"]["written_wrong"]
    assert first["question"] == 'Question: Is there a "w" in "word"?'


def test_the_three_normalisations(tmp_path):
    """Nats after the context, and at the start of a text, that make each of them differ."""
    nats = {b" b": (6, 5), b" long": (7.5, 12), b" mid": (8, 14)}
    line = {"question": "x", "answer": [], "options": [text.decode() for text in nats]}

    class Scores(Stub):
        def score_continuations(self, pairs, *, covers, rows):
            for number, (context, choice) in enumerate(pairs):
                yield number, Score(nats[choice][0 if context else 1], False)

    # Sums -6, -7.5, -8; per byte -3, -1.5, -2; over the unconditional -1, 4.5, 6.
    expected = {" b": (1, 0, 0), " long": (0, 1, 0), " mid": (0, 0, 1)}
    for answer, credits in expected.items():
        path = write(tmp_path / "a.jsonl", [line | {"answer": answer}])
        figures, _ = run(Scores({}), path)
        names = ("sum", "per_byte", "unconditional")
        assert tuple(figures[f"tasks/a/accuracy_{name}"].value for name in names) == credits


def test_a_model_that_cannot_tell_choices_apart_gets_chance(tmp_path):
    class Constant(Stub):
        def score_continuations(self, pairs, *, covers, rows):
            return ((number, Score(5.0 * len(pair[1]), False)) for number, pair in enumerate(pairs))

    lines = [{"question": "x", "answer": "ab", "options": ["ab", "cd", "ef", "gh"]}] * 12
    figures, _ = run(Constant({}), write(tmp_path / "a.jsonl", lines))
    assert {figure.value for figure in figures.values()} == {0.25}


def test_noise_changes_the_question_alone(tmp_path):
    model = oracle(tmp_path)
    spell = write(tmp_path / "some.jsonl", SPELL)
    figures, result = run(model, spell, noise=("permute", "delete"), rates=(0.5,), seed=3)
    assert figures["tasks/some/exact_match"].value == 1
    assert figures["tasks/some/permute/0.5/exact_match"].value < 1
    assert set(figures) == {
        "tasks/some/exact_match",
        "tasks/some/exact_match_chance",
        "tasks/some/permute/0.5/exact_match",
        "tasks/some/delete/0.5/exact_match",
    }
    (chart,) = result.charts
    assert (chart.title, [line.label for line in chart.series]) == (
        "some: exact match",
        ["permute", "delete"],
    )
    assert [point[:2] for point in chart.series[0].paths[0]] == [
        (0, 1),
        (0.5, figures["tasks/some/permute/0.5/exact_match"].value),
    ]
    start = model.read[0][: model.read[0].index(b"Question:")]
    questions = [f'Question: Spell out the word "{line["input1"]}".'.encode() for line in SPELL]
    noisy = [
        start + perturb(question, "permute", 0.5, seed=3, document=number) + b' Answer: "'
        for number, question in enumerate(questions)
    ]
    assert set(model.read[:6]) == {start + question + b' Answer: "' for question in questions}
    assert set(model.read[6:12]) == set(noisy)
    asked = result.details["sets"]["some"]["spell"]["permute/0.5/written_wrong"][0]["question"]
    assert any(asked.encode() in text for text in noisy)
    run(model, spell, noise=("permute",), rates=(0.5,), seed=3, max_items=2)
    assert set(model.read[-2:]) == {noisy[0], noisy[3]}


def test_examples_before_the_question(tmp_path):
    model = oracle(tmp_path)
    cute, _ = files(tmp_path)
    figures, result = run(model, cute, shots=2)
    assert result.notes == ("cute: 8 items",)  # two of each task are examples
    text = next(each for each in model.read if b"Spell" in each).decode()
    instruction, *shown, last = text.split("Question: ")
    assert instruction.endswith('"t o n g u e"\n\n') and last.endswith(' Answer: "')
    assert len(shown) == 2
    words = {each.split('"')[1] for each in shown}
    assert all(each.endswith(f'Answer: "{" ".join(each.split(chr(34))[1])}"\n') for each in shown)
    assert not any(f'word "{word}". Answer: "'.encode() in text.encode()[-40:] for word in words)
    assert figures["tasks/cute/exact_match"].value == 1

    train = write(tmp_path / "train.jsonl", [SPELL[0] | {"input1": "x", "label": "x"}] * 2)
    model = oracle(tmp_path)
    only = write(tmp_path / "spell.jsonl", SPELL)
    _, result = run(model, only, shots=1, shots_from=(train,))
    assert result.notes == ("spell: 6 items",)
    assert model.read[0].count(b'\nQuestion: Spell out the word "x". Answer: "x"\nQuestion: ') == 1
    assert set(result.details["files"]) == {train, only}


def test_an_encoder_reads_the_question_alone_and_writes_choices_too(tmp_path):
    class Encoder(Stub):
        has_encoder = True

        def complete(self, prompts, *, rows, temperature, stop):
            assert stop == ()
            return (self.answers.get(prompt.text, b"") for prompt in prompts)

    spelling = write(tmp_path / "s.jsonl", [{"typo": "teh", "fix": "the"}] * 2)
    game = write(tmp_path / "g.jsonl", GAMES)
    model = Encoder({b"teh": b"the", b"Which? Answer:": b"b"})
    figures, _ = run(model, spelling, game, shots=1)
    assert figures["tasks/s/exact_match"].value == 1
    assert set(figures) == {
        *(f"tasks/{name}/exact_match" for name in ("s", "g", "g/first", "g/second")),
        *(f"tasks/{name}/exact_match_chance" for name in ("s", "g", "g/first", "g/second")),
    }
    lines = [{"id": "a", "lang": code, "text": "v\nx\ny\nz"} for code in ("eng", "deu")]
    with pytest.raises(UserError, match=r"p is parallel text, .* only writes answers"):
        Tasks(files=(write(tmp_path / "p.jsonl", lines),)).check(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": ()}, r"needs files; name them with tasks\.files"),
        ({"noise": ("permute",), "rates": (2.0,)}, "the rate of permute is 2.0"),
        ({"covers": 4}, r"symbols are bytes; leave out tasks\.covers"),
        ({"shots": 6}, r"there are 6 items for the examples of cute spell; lower tasks\.shots"),
        ({"max_items": 0}, r"tasks.*max_items is 0"),
        ({"files": ("missing.jsonl",)}, r"tasks\.files: no file matches"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path, options, message):
    named = {"files": (files(tmp_path)[0],)} | options
    with pytest.raises(UserError, match=message):
        Tasks(**named).check(Stub({}))


def test_a_model_writes_and_chooses_as_it_would_alone(tmp_path):
    config = ExperimentConfig(
        model=FAMILIES["transformer"], data=DataConfig(sequence_length=LENGTH)
    )
    model = LoadedModel(SavedModel(config, 7, *split_model(FAMILIES["transformer"]), {}))
    questions = [b"a?", b"bc?", b"d?", b"efghijk?"]
    options = {"temperature": 0.0, "stop": ["\n"]}
    prompts = [Prompt(question, 8, number) for number, question in enumerate(questions)]
    lines = [{"question": question.decode(), "answer": "x"} for question in questions]
    games = [line | {"options": ["x", "yz"]} for line in lines]
    names = write(tmp_path / "g.jsonl", games), write(tmp_path / "q.jsonl", lines)
    with pytest.warns(UserWarning, match="prompt and continuation may take"):
        written = list(model.complete(prompts, **options))
        report = evaluate(model, None, [Tasks(files=names)]).to_json()
    pairs = [(question, choice) for question in questions for choice in ("x", "yz")]
    scores = dict(model.score_continuations(pairs))
    found = report["figures"]["tasks/g/accuracy_sum"]["value"]
    assert found == np.mean([scores[2 * n].nats < scores[2 * n + 1].nats for n in range(4)])
    wrong = report["details"]["tasks"]["sets"]["q"][""]["written_wrong"]
    assert [each["written"] for each in wrong] == [
        text.decode(errors="backslashreplace") for text in written
    ]
