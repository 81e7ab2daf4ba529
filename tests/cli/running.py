"""A tiny run, and a command that fails."""

from bytelm.cli.main import main

TINY = """
--model.width 16 --model.depth 1 --model.head-width 8 --data.sequence-length 16
--data.batch-size 8 --data.held-out 0.2 --train.validation-rows 8
--train.sample-bytes 0 --train.steps 2 --train.validate-every 2 --mesh.data 1
--train.no-tensorboard
""".split()


def fails(capsys, *arguments: str) -> str:
    """The one sentence that the command prints for a mistake."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def train(*arguments: str) -> tuple[str, ...]:
    return ("train", "transformer_tiny", *TINY, *arguments)
