"""The commands and programs of docs/how_to: every one runs, on tiny models and texts.

In these pages `sh` fences hold commands that are run here, fences with a NAME a file that the
reader writes, `python` fences a program, and `console` fences what needs a network or a cluster.
"""

import lzma
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from bytelm.cli.main import main

FOLDER = Path(__file__).parents[1] / "docs" / "how_to"
FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = "--train.steps 2 "
RUN = (
    STEPS + "--train.log-every 1 --train.validation-rows 4 --train.sample-bytes 0 "
    "--data.sequence-length 64 --data.batch-size 2 --mesh.data 1 "
)
SPACEBYTE = (
    RUN + "--model.local-width 16 --model.local-depth 2 --model.global-width 16 "
    "--model.global-depth 1 --model.head-width 8"
)
TRANSFORMER = RUN + "--model.width 16 --model.depth 1 --model.head-width 8"
HNET = RUN + "--model.layout m1[T1]m1 --model.widths 32 64 --model.mlp-widths 0 128"
SIZES = {
    "hnet_tiny": HNET,
    "spacebyte_tiny": SPACEBYTE,
    "mixture.py": SPACEBYTE,
    "patches.py": SPACEBYTE,
    "transformer_tiny": TRANSFORMER,
}
"""Options that make the runs of a page tiny, by what comes after `train` or `ablate`."""


class Fence(NamedTuple):
    """A fenced block: its language, the name of its file or nothing, and its text."""

    language: str
    name: str
    text: str


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder that the pages take for granted: some books, and letters."""
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    for name in "abc":
        lines = [f'{{"text": "{name}{i}: it was the best of times. "}}\n' for i in range(60)]
        text = "".join(lines).encode()
        Path(f"books/{name}.jsonl").write_bytes(text)
        Path(f"books/{name}2.jsonl.xz").write_bytes(lzma.compress(text.replace(b"best", b"worst")))
    Path("letters.jsonl").write_text(Path("books/a.jsonl").read_text().replace("best", "last"))
    return tmp_path


@pytest.mark.parametrize("page", sorted(path.stem for path in FOLDER.glob("*.md")))
def test_all_that_a_page_has_one_run_works(page, folder):
    fences = [Fence(*found) for found in FENCE.findall((FOLDER / f"{page}.md").read_text())]
    if page == "harness":
        pytest.importorskip("lm_eval")
    languages = {fence.language for fence in fences if not fence.name}
    assert languages <= {"sh", "python", "console"}
    names: dict[str, object] = {}  # of all programs of a page
    for fence in fences:
        if fence.name:
            Path(fence.name).write_text(fence.text)
        elif fence.language == "python":
            exec(compile(fence.text, f"{page}.md", "exec"), names)
        elif fence.language == "sh":
            for command in fence.text.replace("\\\n", " ").splitlines():
                run(command)


def run(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "python":
        assert arguments[0] == "-c"
        exec(arguments[1], {})
        return
    assert program == "bytelm"
    if arguments[0] in ("train", "ablate"):
        tiny = SIZES.get(arguments[1], "")
        if "--train.budget" in arguments:
            tiny = tiny.replace(STEPS, "")
        arguments += tiny.split()
    assert main(arguments) == 0, command


def test_the_readme_links_every_page():
    readme = (FOLDER.parents[1] / "README.md").read_text()
    assert all(f"docs/how_to/{path.name}" in readme for path in FOLDER.glob("*.md"))
