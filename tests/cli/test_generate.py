import io
import json
import sys

import pytest
from flax import nnx

from bytelm.api import LoadedModel
from bytelm.cli.generate import write_continuations
from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import escape_unwritable
from bytelm.data.config import DataConfig
from bytelm.inference.batching import Prompt
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


def test_an_error_after_the_prompt_has_its_own_line(model, monkeypatch):
    out = ascii_output(monkeypatch)
    monkeypatch.setattr("bytelm.inference.generation.free_memory", lambda: 0)
    with pytest.raises(UserError, match="no memory for 1 text of 256 symbols"):
        write_continuations(model, [b"prompt"], raw=False, **OPTIONS)
    assert written(out) == b"prompt\n"


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


def test_prompts_of_a_file_get_the_texts_that_they_get_together(model, monkeypatch, tmp_path):
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    texts = ["one", "two", "naïve"]
    prompts.write_text("".join(json.dumps({"prompt": text, "id": text}) + "\n" for text in texts))
    monkeypatch.setattr("bytelm.cli.generate.load", lambda *_, **options: model)
    command = ["generate", "--checkpoint", "run", "--max-bytes", "6", "--seed", "3"]
    files = ["--prompts", str(prompts), "--output", str(output)]
    assert main([*command, *files, "--rows", "2"]) == 0
    lines = map(json.loads, output.read_text().splitlines())
    expected = [text.decode(errors="surrogateescape") for text in model.generate(texts, **OPTIONS)]
    assert [(line["id"], line["text"]) for line in lines] == list(zip(texts, expected, strict=True))


def test_a_prompt_without_memory_is_told_before_anything_is_written(
    model, monkeypatch, tmp_path, capsys
):
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    lines = [{"prompt": "a"}, {"prompt": "b", "max_bytes": 9999}, {"prompt": "c" * 99}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("bytelm.cli.generate.load", lambda *_, **options: model)
    monkeypatch.setattr("bytelm.inference.generation.free_memory", lambda: 2**20)
    command = ["generate", "--checkpoint", "run", "--prompts", str(prompts)]
    assert main([*command, "--output", str(output)]) == 2
    assert "error: prompt 2 is too large: there is no memory for 2 texts of 16,384 symbols" in (
        capsys.readouterr().err
    )
    assert not output.exists()


def test_long_prompts_are_told_once(model):
    long = [Prompt(b"x" * 20, 1, number) for number in range(2)]
    texts = model.complete([Prompt(b"x", 1, 9), *long], seed=3)
    with pytest.warns(UserWarning, match="may take 22 symbols, and the model was trained") as told:
        assert len(list(texts)) == 3
    assert len(told) == 1


def test_files_of_prompts_go_with_no_single_prompt(capsys, tmp_path):
    command = ["generate", "--checkpoint", "nowhere"]
    for options in (["--output", "x"], ["--prompts", "x", "--output", "y", "--beams", "3"]):
        assert main([*command, *options]) == 2
    assert main([*command, "--prompts", str(tmp_path / "no"), "--output", "y"]) == 2
    together, beams, missing = capsys.readouterr().err.splitlines()
    assert (
        "belong together" in together and "leave them out" in beams and "cannot be read" in missing
    )
