"""The default corpus needs neither network nor TensorFlow."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from bytelm.data.sources.python_library import PythonLibraryReader, library_files

PROGRAM = """
import socket, sys

def refuse(*arguments, **keywords):
    raise OSError("no network in this test")

socket.socket.connect = refuse
socket.getaddrinfo = refuse
from bytelm.data.config import DataConfig
from bytelm.data.open_data import OpenData

(source,) = OpenData(DataConfig(cache_dir=sys.argv[1])).sources
print(sum(len(document.text) for document in source.documents("train")))
assert "tensorflow" not in sys.modules
"""


def test_prepares_and_reads_without_network_or_tensorflow(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 1_000_000
    (prepared,) = tmp_path.glob("tfds/*/python_stdlib/*/dataset_info.json")
    assert prepared.parent.name == "{}.{}.{}".format(*sys.version_info)


def test_files_are_the_library_alone_in_a_fixed_order():
    files = [Path(name) for name, _ in library_files()]
    assert files == [Path(name) for name, _ in library_files()]
    assert Path("os.py") in files
    left_out = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
    assert not any(left_out & set(path.parts) for path in files)
    assert {path.suffix for path in files} <= {".py", ".rst", ".txt"}


def test_digest_changes_with_the_library(tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "a.py").write_text("a = 1")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    before = PythonLibraryReader(tmp_path).inputs("train")
    assert PythonLibraryReader(tmp_path).inputs("train") == before
    (library / "a.py").write_text("a = 2")
    assert PythonLibraryReader(tmp_path).inputs("train") != before
