import io
import os
import sys
import threading

import pytest
from flax import nnx

from bytelm.api import LoadedModel
from bytelm.cli import compress, decompress
from bytelm.cli.main import main
from bytelm.core.places import place
from bytelm.data.config import DataConfig
from bytelm.models.t5.byt5 import ByT5Config
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.cli.running import fails

TEXT = b"It was the best of times.\n\0\xff"


def loaded(config, seed=0):
    graphdef, params = nnx.split(config.build(nnx.Rngs(seed)))
    experiment = ExperimentConfig(model=config, data=DataConfig(sequence_length=16))
    return LoadedModel(SavedModel(experiment, 7, graphdef, nnx.to_pure_dict(params), {}))


@pytest.fixture(scope="module")
def models():
    """By the name that stands for their run directory."""
    small = TransformerConfig(width=8, head_width=8, depth=1)
    t5 = ByT5Config(width=8, heads=1, head_width=8, mlp_width=8, encoder_depth=1, decoder_depth=1)
    return {"RUN": loaded(small), "OTHER": loaded(small, seed=1), "T5": loaded(t5)}


@pytest.fixture(autouse=True)
def folder(models, monkeypatch, tmp_path):
    for module in (compress, decompress):
        monkeypatch.setattr(module, "load", lambda run, step, verify: models[run.name])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(TEXT)
    return tmp_path


def pack(*arguments):
    return "compress", "--checkpoint", "RUN", *arguments


def unpack(*arguments):
    return "decompress", "--checkpoint", "RUN", *arguments


def test_a_file_comes_back(capsys, folder):
    assert main(pack("x", "--check")) == 0
    out = capsys.readouterr().out
    size = (folder / "x.bytelm").stat().st_size
    assert out.startswith(f"x.bytelm: {len(TEXT)} bytes to {size}, ") and "bits per byte" in out
    (folder / "x").unlink()
    assert main(unpack("x.bytelm")) == 0
    assert (folder / "x").read_bytes() == TEXT
    assert capsys.readouterr().out == f"x: {len(TEXT)} bytes\n"


def test_an_empty_file_and_other_names(capsys, folder):
    (folder / "-e").write_bytes(b"")
    assert main(pack("./-e", "--output", "small")) == 0
    assert main(unpack("small", "--output", "again")) == 0
    assert (folder / "again").read_bytes() == b""
    assert sorted(os.listdir()) == ["-e", "again", "small", "x"]


def test_files_at_addresses(capsys):
    store = place("memory://bucket")
    (store / "x").write_bytes(TEXT)
    assert main(pack("memory://bucket/x")) == 0
    assert capsys.readouterr().out.startswith(f"memory://bucket/x.bytelm: {len(TEXT)} bytes to ")
    assert main(unpack("memory://bucket/x.bytelm", "--output", "memory://bucket/y")) == 0
    assert (store / "y").read_bytes() == TEXT
    store.fs.rm(store.path, recursive=True)


class Stream(io.TextIOWrapper):
    """Standard input or output whose bytes are in a pipe."""


def test_standard_input_and_output(capfd, monkeypatch, folder):
    reader, writer = os.pipe()
    os.write(writer, TEXT)
    os.close(writer)
    with open(reader, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", Stream(pipe))
        assert main(pack("-", "--output", "y")) == 0
    with (folder / "y").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", Stream(file))
        out = Stream(io.BytesIO())
        monkeypatch.setattr(sys, "stdout", out)
        assert main(unpack("-", "--output", "-")) == 0
        assert out.buffer.getvalue() == TEXT
    assert f"-: {len(TEXT)} bytes" in capfd.readouterr().err


def test_a_pipe_with_a_name(folder):
    os.mkfifo("pipe")
    thread = threading.Thread(target=lambda: (folder / "pipe").write_bytes(TEXT))
    thread.start()
    assert main(pack("pipe", "--output", "y")) == main(unpack("y", "--output", "z")) == 0
    thread.join()
    assert (folder / "z").read_bytes() == TEXT


def test_mistakes_leave_no_file(capsys, folder):
    assert main(pack("x")) == 0
    before = sorted(os.listdir())
    damaged = bytearray((folder / "x.bytelm").read_bytes())
    damaged[-1] ^= 1
    for arguments, message in (
        (pack("x"), "x.bytelm exists already; choose another --output"),
        (pack("-"), "name the file to write with --output"),
        (unpack("x.bytelm"), "x exists already; choose another --output"),
        (unpack("x"), "x does not end in .bytelm; name the file to write with --output"),
        (unpack("x", "--output", "y"), "x is no file that `bytelm compress` wrote"),
        (("decompress", "--checkpoint", "OTHER", "x.bytelm", "--output", "y"), "another check"),
        (("compress", "--checkpoint", "T5", "x", "--output", "y"), "with a checkpoint of a deco"),
        (pack("x", "--output", "no/y"), "there is no directory no"),
        (pack("x", "--rows", "0", "--output", "y"), "--rows is 0"),
        (("compress", "x"), "needs --checkpoint"),
    ):
        assert message in fails(capsys, *arguments)
        assert sorted(os.listdir()) == before
    (folder / "x.bytelm").write_bytes(damaged)
    assert "x.bytelm is damaged" in fails(capsys, *unpack("x.bytelm", "--output", "y"))
    for name, message in (("none", "No such file"), (".", "Is a directory")):
        assert main(pack(name, "--output", "y")) == 2
        assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == before
