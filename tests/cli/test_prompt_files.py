"""Files of prompts and of continuations; what a killed command has left."""

import itertools
import json
import os
import signal
import subprocess
import sys

import pytest

from bytelm.cli.prompt_files import Continuations, PromptFile, write_file
from bytelm.core.errors import UserError
from bytelm.core.places import place

LINES = [
    {"prompt": "It was"},
    {"prompt": "naïve \udcff", "id": "second", "max_bytes": 3},
    {"prompt": "", "id": {"any": ["value", None]}},
    {"prompt": "last"},
]
JOB = {"prompts": "of this", "seed": 1}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    # Empty lines do not count.
    path.write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    return PromptFile.checked(path, 256)


def test_prompts_at_an_address():
    path = place("memory://prompts/file")
    with pytest.raises(UserError, match="--prompts memory://prompts/file cannot be read"):
        PromptFile.checked(path, 256)
    path.write_text("\n".join(map(json.dumps, LINES)))
    assert len([*PromptFile.checked(path, 256).prompts()]) == 4
    path.unlink()


def echoed(prompts, order=lambda texts: texts):
    """Continues a prompt with its number, itself and a byte that is no UTF-8, in an order."""
    texts = ((i, b"%d %s\n\xfe" % (x.number, x.text)) for i, x in enumerate(prompts))
    yield from order(texts)


def write(file, path, as_completed=echoed, job=JOB):
    written = []
    with Continuations(path, job) as output:
        write_file(file, output, as_completed, written.append)
    return len(written)


def stopped(prompts, count=2, order=list):
    """As `echoed` until so many have ended."""
    yield from itertools.islice(echoed(prompts, order), count)
    raise KeyboardInterrupt


def test_each_prompt_has_its_line(file, tmp_path):
    assert file.count == 4
    assert [prompt.max_bytes for prompt, _ in file.prompts()] == [256, 3, 256, 256]
    assert write(file, tmp_path / "out.jsonl") == 4
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "0 It was\n\udcfe"},
        {"id": "second", "text": "1 naïve \udcff\n\udcfe"},
        {"id": {"any": ["value", None]}, "text": "2 \n\udcfe"},
        {"text": "3 last\n\udcfe"},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "prompts.jsonl"]
    with pytest.raises(UserError, match="exists already"):
        write(file, tmp_path / "out.jsonl")


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_a_stopped_command_goes_on_after_the_last_whole_line(file, tmp_path, cut):
    write(file, tmp_path / "whole.jsonl")
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(file, path, stopped)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    assert write(file, path) == (2 if cut == 0 else 3)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_a_stop_loses_no_text_that_ended_before_earlier_ones(tmp_path, cut):
    prompts, path = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(f'{{"prompt": "number {i}", "id": {i}}}\n' for i in range(40)))
    file = PromptFile.checked(prompts, 256)
    write(file, tmp_path / "whole.jsonl")

    def mixed(texts):
        texts = list(texts)
        return [*texts[3:10], *texts[:2], *texts[:9:-1], texts[2]]

    waiting = tmp_path / "out.jsonl.unfinished"
    for count, lines in ((8, 1), (15, 10)):
        with pytest.raises(KeyboardInterrupt):
            write(file, path, lambda prompts, count=count: stopped(prompts, count, mixed))
        assert len(path.read_bytes().splitlines()) == lines
    content = waiting.read_bytes()
    waiting.write_bytes(content[: len(content) - cut])
    assert write(file, path) == 40 - 8 - 15 + (cut > 0)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not waiting.exists()


def test_what_waited_is_forgotten_when_it_is_written(tmp_path):
    sizes, path = [], tmp_path / "out.jsonl"
    with Continuations(path, JOB) as output:
        for number in (1, 0, 2, 4, 5, 3):
            output.put(number, {}, b"text")
            sizes.append((tmp_path / "out.jsonl.unfinished").stat().st_size)
    head = min(sizes)
    assert [size > head for size in sizes] == [True, False, False, True, True, False]


SLOWLY = """
import sys, time
from pathlib import Path
from bytelm.cli.prompt_files import PromptFile
from tests.cli.test_prompt_files import echoed, write

def slowly(prompts):
    for text in echoed(prompts):
        yield text
        print("a line", flush=True)
        time.sleep(0.02)

write(PromptFile.checked(Path(sys.argv[1]), 256), Path(sys.argv[2]), slowly)
"""


def test_a_killed_command_goes_on(tmp_path):
    prompts, path = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(f'{{"prompt": "number {i}"}}\n' for i in range(500)))
    command = [sys.executable, "-c", SLOWLY, str(prompts), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            assert process.stdout.readline() == "a line\n"
        with pytest.raises(UserError, match="written by another command"):
            Continuations(path, JOB)
        process.send_signal(signal.SIGKILL)
    assert 2 <= len(path.read_bytes().splitlines()) < 500
    file = PromptFile.checked(prompts, 256)
    assert 0 < write(file, path) <= 498
    write(file, tmp_path / "whole.jsonl")
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_another_job_is_refused(file, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(file, tmp_path / "out.jsonl", stopped)
    with pytest.raises(UserError, match=r"out\.jsonl was begun with another seed;"):
        write(file, tmp_path / "out.jsonl", job={**JOB, "seed": 2})


@pytest.mark.parametrize("change", ["another line", "one more", "one less"])
def test_a_file_of_prompts_that_changes_meanwhile_is_told(file, tmp_path, change):
    lines = file.path.read_bytes().splitlines(keepends=True)
    changed = {
        "another line": [*lines[:2], b'{"prompt": "other"}\n', *lines[3:]],
        "one more": [*lines, b'{"prompt": "more"}\n'],
        "one less": lines[:-1],
    }
    file.path.write_bytes(b"".join(changed[change]))
    with pytest.raises(UserError, match="has changed since the command began"):
        write(file, tmp_path / "out.jsonl")
    told = "" if change == "one less" else ":3" if change == "another line" else ":6"
    with pytest.raises(UserError, match=rf"prompts\.jsonl{told} has changed"):
        list(file.prompts())


def test_a_pipe_of_prompts_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no file that can be read twice"):
        PromptFile.checked(tmp_path / "pipe", 256)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", 'has no text "prompt"'),
        ('{"text": "x"}', 'has no text "prompt"'),
        ('{"prompt": "x", "seed": 1}', "has the field 'seed'"),
        ('{"prompt": "x", "max_bytes": -1}', "has max_bytes -1"),
        ('{"prompt": "\\ud800"}', "half of a character"),
        (b'{"prompt": "\xff"}', "is not valid JSON"),
        ('{"prompt": "x", "id": ' + "[" * 99999 + "]" * 99999 + "}", "too long"),
        ('{"prompt": "x", "max_bytes": ' + "1" * 5000 + "}", "too long"),
    ],
)
def test_a_bad_line_is_told_before_anything_runs(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"prompt": "right"}\n\n' + line)
    with pytest.raises(UserError) as told:
        PromptFile.checked(path, 256)
    assert str(told.value).startswith(f"{path}:3") and message in str(told.value)
    assert "\n" not in str(told.value)
