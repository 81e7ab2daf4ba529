import json
import lzma

import pytest

from bytelm.core.errors import UserError
from bytelm.evaluation.tasks import cute
from bytelm.evaluation.tasks.formats import read_sets


def write(path, *lines):
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    return str(path)


def read(path, *lines):
    (found,) = read_sets([write(path, *lines)], "eng")
    return found


LANGGAME = {
    "id": "langgame/test/2",
    "type": "longest",
    "question": "The options are: [ machine, gun]. Which is the longest? Answer:",
    "answer": " machine",
    "options": [" machine", " gun"],
}


def test_langgame(tmp_path):
    found = read(tmp_path / "langgame.test.jsonl.xz", LANGGAME)
    assert (found.name, found.form) == ("langgame.test", "questions")
    (item,) = found.items
    assert (item.task, item.name) == ("longest", "langgame/test/2")
    assert item.context(b"", item.question).decode() == LANGGAME["question"]
    assert item.choices == (b" machine", b" gun")
    assert item.answers == (b" machine",)
    assert not item.writes


def test_questions_of_ones_own(tmp_path):
    line = {"prompt": "Sums.\n", "question": "1+1=", "answer": ["2", "two"], "stop": [".", "\n"]}
    (item,) = read(tmp_path / "sums.jsonl", line).items
    assert item.context(b"2+2=4.\n", b"l+1=") == b"Sums.\n2+2=4.\nl+1="
    assert item.example == b"1+1=2.\n"
    assert [item.is_right(text) for text in (b"2", b" two \t", b"Two", b"2 2")] == [1, 1, 0, 0]
    assert item.writes and not item.choices


def test_prompts_of_cute(tmp_path):
    spell = {"id": "s", "task": "spell", "input1": "the", "label": "t h e"}
    sem = {"task": "sem", "input1": "is", "input2": "gis", "input3": "are", "label": "are"}
    word = {"task": "contains_word", "input1": "A", "input2": "A b.", "label": "Yes"}
    first, second, third = read(tmp_path / "cute.jsonl", spell, sem, word).items
    assert first.context(b"", first.question).decode() == (
        "Spell out the word, putting spaces between each letter, based on the following examples:\n"
        "\n"
        '1. Spell out the word "alphabet". Answer: "a l p h a b e t"\n'
        '2. Spell out the word "hello". Answer: "h e l l o"\n'
        '3. Spell out the word "zebra". Answer: "z e b r a"\n'
        '4. Spell out the word "tongue". Answer: "t o n g u e"\n'
        "\n"
        'Question: Spell out the word "the". Answer: "'
    )
    assert first.example.decode() == 'Question: Spell out the word "the". Answer: "t h e"\n'
    assert first.stop[0] == b'"' and first.writes and not first.choices
    assert second.choices == (b"gis", b"are") and second.writes
    assert third.choices == (b"Yes", b"No")
    assert third.is_right(b"yes") and not first.is_right(b"T h e")


def test_the_examples_of_cute_follow_their_rules():
    """A wrong word in a prompt would mislead every model."""
    rules = {
        "spell": lambda word: " ".join(word),
        "spell_inverse": lambda word: word.replace(" ", ""),
        "contains_char": lambda letter, word: "Yes" if letter in word else "No",
        "contains_word": lambda word, text: (
            "Yes" if word in text.lower().strip(".").split() else "No"
        ),
        "ins_char": lambda new, old, word: word.replace(old, old + new),
        "del_char": lambda old, word: word.replace(old, ""),
        "sub_char": lambda old, new, word: word.replace(old, new),
        "swap_char": lambda a, b, word: word.translate(str.maketrans(a + b, b + a)),
        "ins_word": lambda new, old, text: words(text, lambda x: f"{x} {new}" if x == old else x),
        "del_word": lambda old, text: words(text, lambda x: "" if x == old else x),
        "sub_word": lambda old, new, text: words(text, lambda x: new if x == old else x),
        "swap_word": lambda a, b, text: words(text, lambda x: {a: b, b: a}.get(x, x)),
    }

    def words(text, change):
        return " ".join(filter(None, map(change, text.split())))

    assert len(cute.PROMPTS) == 14
    for task, rule in rules.items():
        for *inputs, answer in cute.PROMPTS[task].examples:
            assert rule(*inputs) == answer, task
    for task in ("orth", "sem"):
        for _, *choices, answer in cute.PROMPTS[task].examples:
            assert answer in choices


def test_spelling(tmp_path):
    line = {"typo": "abbout", "fix": ["about", "abbot"], "src": "codespell"}
    (item,) = read(tmp_path / "spelling.jsonl", line).items
    assert item.context(b"", item.question) == b"Correct the spelling of each word.\n\nabbout ->"
    assert item.example == b"abbout -> about\n"
    assert item.question == b"abbout" and item.is_right(b"abbot") and item.is_right(b" about")


def test_translations_among_sentences_of_about_their_length(tmp_path):
    english = ["one", "four", "seven", "eleven", "thousand thousands"]
    german = ["eins", "vier", "sieben", "elf", "tausend Tausender"]
    found = read(
        tmp_path / "p.jsonl",
        {"id": "a", "lang": "eng", "text": "\n".join(english)},
        {"id": "a", "lang": "deu", "text": "\n".join(german)},
    )
    assert list(found.by_task) == ["eng-deu", "deu-eng"]
    assert found.texts == ["\n".join(english).encode(), "\n".join(german).encode()]
    first = found.items[0]
    assert first.context(b"", first.question) == b"eng: one\ndeu:"
    assert first.example == b"eng: one\ndeu: eins\n"
    assert first.choices == (b" eins", b" vier", b" elf", b" sieben")
    assert not first.writes
    for item in found.items:
        assert len(set(item.choices)) == 4 and item.choices[0] == item.answers[0]


def test_a_reference_language_and_four_sentences_are_needed(tmp_path):
    lines = [{"id": "a", "lang": code, "text": "x\ny\nz"} for code in ("deu", "fra")]
    with pytest.raises(UserError, match=r"has deu, fra; translations need eng \(tasks\.reference"):
        read(tmp_path / "p.jsonl", *lines)
    with pytest.raises(UserError, match="in fra has 3 different sentences; a choice needs 4"):
        read_sets([str(tmp_path / "p.jsonl")], "deu")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no line"),
        ([{"text": "x"}], "line 1 has the keys text, those of no format of tasks: parallel has id"),
        ([{"question": "x"}], "line 1 has the keys question, those of no format"),
        ([{"task": "spell", "input1": "a"}], "line 1 has no 'label', and each line .* needs task,"),
        ([LANGGAME, {"question": "x"}], "line 2 has no 'answer', and each line .* it has question"),
        (
            [{"task": "spel", "input1": "a", "label": "b"}],
            r"line 1: CUTE has no task 'spel' \(did you mean spell\?\)",
        ),
        ([{"task": "sem", "input1": "a", "label": "b"}], "line 1 has no 'input2'"),
        ([{"typo": "a", "fix": []}], "line 1: the list 'fix' is empty"),
        ([{**LANGGAME, "answer": "gun"}], "the answer 'gun' is not among the options; they are"),
        ([{**LANGGAME, "options": [" machine"]}], "line 1 has one option; give two at least"),
        ([{**LANGGAME, "options": [" machine"] * 2}], "an option is empty, or there twice"),
        ([{**LANGGAME, "options": [" machine", ""]}], "an option is empty, or there twice"),
        ([{**LANGGAME, "answer": LANGGAME["options"]}], "all options are right"),
        ([{"question": "x", "answer": "a\nb"}], r"the answer 'a\\nb' has the stop '\\n' in it"),
        ([{"question": "x", "answer": "y", "stop": ""}], "a stop is empty"),
        ([LANGGAME, {"question": "x", "answer": "y"}], "have a 'type' and some have none"),
        (
            [LANGGAME, {"question": "x", "answer": "y", "type": "longest"}],
            "some lines of a longest have options and some have none",
        ),
    ],
)
def test_mistakes(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.jsonl", *lines)


def test_two_files_of_one_name(tmp_path):
    (tmp_path / "x").mkdir()
    paths = [write(tmp_path / "a.jsonl", LANGGAME), write(tmp_path / "x/a.jsonl.xz", LANGGAME)]
    with pytest.raises(UserError, match="two task files are called a, "):
        read_sets(paths, "eng")
