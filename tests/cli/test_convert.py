"""`bytelm convert` takes one of three pairs of options."""

import pytest

from tests.cli.running import fails


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--from-hf x",
        "--from-hf x --checkpoint run",
        "--to-hf folder",
        "--from-hf x --output run --step 3",
        "--from-hf x --output run --dtype bfloat16",
        "--from-hf x --output run --to-hf folder",
        "--to-hf folder --output run",
        "--to-hf folder --to-safetensors other --checkpoint run",
        "--to-safetensors folder",
        "--checkpoint run --step best",
    ],
)
def test_other_options_are_refused(capsys, options):
    error = fails(capsys, "convert", *options.split())
    assert "say what to convert: `--from-hf PATH_OR_NAME --output RUN`" in error
