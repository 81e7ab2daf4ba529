"""The default corpus: every Python has its standard library, so a first run needs no network."""

import contextlib
import functools
import hashlib
import io
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bytelm.core.locks import Share, exclusive
from bytelm.data.config import SourceConfig, Split
from bytelm.data.sources.tfds import TfdsReader, import_tfds

PREPARED = "tfds"
"""Folder of the cache with a prepared dataset for each Python."""
PREPARED_LOCK = "lock"
ENDINGS = (".py", ".rst", ".txt")
LEFT_OUT = {
    "__pycache__",
    "dist-packages",
    "idle_test",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}
"""Directories of installed packages, of caches, of tests (many of which are not text), and of one
generated file of 0.7 MB, which would be most of whatever split it falls into."""


def library_root() -> Path:
    """Directory of the standard library of the running Python."""
    return Path(sysconfig.get_path("stdlib"))


def library_files(root: Path) -> Iterator[Path]:
    """The source and documentation files under `root`, in a fixed order."""
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(set(subdirectories) - LEFT_OUT)
        for name in sorted(names):
            if name.endswith(ENDINGS):
                yield Path(directory, name)


class PythonStdlibReader(TfdsReader):
    """The dataset `python_stdlib`, prepared under the cache directory when it is first read."""

    def __init__(self, cache_path: Path) -> None:
        super().__init__(SourceConfig(dataset="python_stdlib", text_key="text"))
        self._cache_path = cache_path

    @functools.cached_property
    def splits(self) -> dict[Split, str]:
        """One split holds everything."""
        return {"train": "train"}

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the names and contents of the files: two Pythons never share a dataset."""
        root, digest = library_root(), hashlib.blake2b(digest_size=16)
        for path in library_files(root):
            name, text = path.relative_to(root).as_posix().encode(), path.read_bytes()
            digest.update(b"%d %d %b%b" % (len(name), len(text), name, text))
        return digest.hexdigest()

    def inputs(self, split: Split) -> object:
        """The digest of the files, which needs no TFDS."""
        return self.digest

    def size(self, split: Split) -> int:
        """Bytes of all the files."""
        return sum(path.stat().st_size for path in library_files(library_root()))

    @functools.cached_property
    def builder(self) -> Any:
        """The TFDS builder of the dataset, prepared here if it has not been."""
        tfds = import_tfds("python_stdlib")
        from bytelm.data.sources.python_stdlib_builder import PythonStdlib

        directory = self._cache_path / PREPARED / self.digest
        directory.mkdir(parents=True, exist_ok=True)
        with exclusive(directory / PREPARED_LOCK, "prepare python_stdlib"):
            builder = PythonStdlib(data_dir=directory, file_format="array_record")
            tfds.disable_progress_bar()
            with contextlib.redirect_stdout(io.StringIO()):  # it says that it is downloading
                builder.download_and_prepare()
        self._use = Share(directory / PREPARED_LOCK)  # so that no other process removes it
        return builder
