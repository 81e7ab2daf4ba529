"""`bytelm runs` as a user types it."""

import json

import pytest

from bytelm.cli.main import main
from tests.cli.running import fails
from tests.training.test_run_status import make_run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "books", reached=10, saved=10)
    make_run(tmp_path / "runs" / "letters", reached=3)
    return tmp_path


def lines(capsys, *arguments: str) -> list[str]:
    assert main(["runs", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_usual_folder_or_several(folder, capsys):
    assert lines(capsys)[-1] == "2 runs: 1 stopped, 1 done"
    assert lines(capsys, "runs", str(folder / "runs"))[-1] == "2 runs: 1 stopped, 1 done"
    shown = lines(capsys, "runs/letters", "runs", "--sort", "state")
    assert [line.split()[0] for line in shown[1:3]] == ["runs/letters", "runs/books"]
    (found,) = json.loads("\n".join(lines(capsys, "runs", "--json", "--state", "done")))
    assert (found["run"], found["step"]) == ("runs/books", 10)


def test_nothing_to_show(folder, capsys):
    assert lines(capsys, "--name", "zebra") == ["none of the 2 runs in runs is such"]
    assert lines(capsys, "runs", "--json", "--state", "running") == ["[]"]
    (folder / "empty").mkdir()
    assert lines(capsys, "empty") == ["no runs in empty"]


def test_mistakes(folder, capsys):
    assert "there is no folder nowhere" in fails(capsys, "runs", "nowhere")
    assert "--state is 'ready'" in fails(capsys, "runs", "--state", "ready")
