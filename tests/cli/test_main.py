"""The list of commands, their help, and what holds for all of them."""

import contextlib

import pytest

import bytelm
from bytelm.cli.main import COMMANDS, command, main
from bytelm.core.errors import UserError
from bytelm.training import distributed, host_memory
from tests.cli.running import fails, train


def test_no_command_lists_the_commands(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("train", "eval", "generate", "segment", "ablate", "data"))


def test_unknown_command(capsys):
    assert "did you mean train?" in fails(capsys, "trian")


def test_a_file_that_is_not_there(capsys, tmp_path):
    missing = tmp_path / "missing.txt"
    assert main(["segment", "--checkpoint", str(tmp_path), "--file", str(missing)]) == 2
    assert capsys.readouterr().err == f"error: {missing}: No such file or directory\n"


@pytest.mark.parametrize("command", [("eval",), ("generate",), ("segment", "--text", "a")])
def test_path_that_is_no_run(capsys, tmp_path, command):
    assert "is no run directory" in fails(capsys, *command, "--checkpoint", str(tmp_path / "no"))


@pytest.mark.parametrize(
    "arguments",
    [
        train("--coordinator", "localhost:1"),
        ("eval", "--checkpoint", "RUN"),
        ("profile", "transformer_tiny"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_memory_is_kept_once_processes_have_joined(capsys, monkeypatch, arguments):
    called = []

    def keep():
        called.append("keep")
        raise UserError("far enough")

    monkeypatch.setattr(distributed, "join", lambda *_: called.append("join"))
    monkeypatch.setattr(host_memory, "keep", keep)
    assert "far enough" in fails(capsys, *arguments)
    assert called == (["join", "keep"] if arguments[0] == "train" else ["keep"])


def test_help_says_what_each_command_does(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        does = command(name).__doc__.splitlines()[0]
        assert f"  {name:10} {does}\n" in out
        assert does in main_help(capsys, name)
    assert "Describes the documents of a source." in main_help(capsys, "data")
    assert "--data.files" in main_help(capsys, "data", "describe")
    assert "transformer_tiny" in main_help(capsys, "train")


def main_help(capsys, *command: str) -> str:
    with contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"bytelm {bytelm.__version__}, JAX ")
