"""A cache at an address: packed once, and fetched by other machines."""

import fsspec
import numpy as np
import pytest

from bytelm.cli.main import main
from bytelm.core.places import objects, place
from bytelm.data.config import DataConfig, Files
from bytelm.data.open_data import OpenData
from bytelm.data.sources import contents, file_formats


@pytest.fixture
def config():
    for name in "ab":
        text = f"a document of {name}, which is not long. " * 20
        place(f"memory://text/{name}.txt").write_bytes(text.encode())
    yield DataConfig(
        source=Files(files=("memory://text/*.txt",), held_out=0.0),
        sequence_length=32,
        batch_size=2,
        cache_dir="memory://cache",
    )
    fsspec.filesystem("memory").rm("/", recursive=True)


def symbols(config, machine, monkeypatch):
    """The packed text, on a machine with a user's cache of its own."""
    monkeypatch.setenv("BYTELM_CACHE", str(machine))
    data = OpenData(config)
    return np.asarray(data.corpus(data.sources[0], "train").symbols)


def test_the_second_machine_reads_no_text(config, tmp_path, monkeypatch, caplog, capsys):
    first = symbols(config, tmp_path / "first", monkeypatch)
    shards = [name for name in objects(place("memory://cache")) if name.startswith("shards/")]
    assert any(name.endswith("/summary.json") for name in shards)

    def refuse(*_):
        raise AssertionError("the text is read")

    with monkeypatch.context() as patch:
        patch.setattr(file_formats, "binary", refuse)
        patch.setattr(contents, "READ_BYTES", None)
        np.testing.assert_array_equal(symbols(config, tmp_path / "second", patch), first)
    assert config.cache_path.is_relative_to(tmp_path / "first")

    assert main(["data", "cache", "--cache-dir", "memory://cache"]) == 0
    assert "shards/" in capsys.readouterr().out

    damaged = next(name for name in shards if name.endswith("train.symbols"))
    content = bytearray((place("memory://cache") / damaged).read_bytes())
    content[3] ^= 1
    (place("memory://cache") / damaged).write_bytes(bytes(content))
    np.testing.assert_array_equal(symbols(config, tmp_path / "third", monkeypatch), first)
    assert "is damaged (train.symbols), and is rebuilt" in caplog.text
