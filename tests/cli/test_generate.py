import io
import sys

import pytest
from flax import nnx

from bytelm.api import LoadedModel
from bytelm.cli.generate import write_continuations
from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import escape_unwritable
from bytelm.data.config import DataConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig

OPTIONS = {"max_bytes": 6, "seed": 3}


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(width=16, depth=1, head_width=8)
    graphdef, params = nnx.split(config.build(nnx.Rngs(0)))
    data = DataConfig(sequence_length=16)
    saved = SavedModel(
        ExperimentConfig(model=config, data=data), 7, graphdef, nnx.to_pure_dict(params), {}
    )
    return LoadedModel(saved)


def ascii_output(monkeypatch) -> io.TextIOWrapper:
    """Standard output from now on, which holds ASCII alone."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    escape_unwritable(stream)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def written(out: io.TextIOWrapper) -> bytes:
    out.flush()
    return out.buffer.getvalue()


def test_raw_bytes_are_those_of_the_continuation(model, monkeypatch):
    out = ascii_output(monkeypatch)
    write_continuations(model, [b"a"], raw=True, **OPTIONS)
    assert written(out) == model.generate(b"a", **OPTIONS)[0] != b""


def test_wrong_options_are_refused_before_the_prompt_is_shown(model, monkeypatch):
    out = ascii_output(monkeypatch)
    for options in ({"seed": -1}, {"top_k": 0}, {"stop": [""]}):
        with pytest.raises(UserError):
            write_continuations(model, [b"prompt"], raw=False, **{**OPTIONS, **options})
    assert written(out) == b""


def test_output_that_is_not_utf8_gets_escapes(model, monkeypatch):
    out = ascii_output(monkeypatch)
    write_continuations(model, ["naïve\x1b".encode(), b"\xff"], raw=False, **OPTIONS)
    assert written(out).startswith(b"na\\xefve\\u241b")


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--raw", "--prompt", "a", "b"), "one --prompt"), (("--prompt", "-", "-"), "read once")],
)
def test_several_prompts_without_a_separator_are_refused_before_loading(capsys, options, message):
    assert main(["generate", "--checkpoint", "nowhere", *options]) == 2
    assert message in capsys.readouterr().err
