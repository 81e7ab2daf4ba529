"""The default source: Python's standard library, so that a first run needs no network."""

import contextlib
import functools
import hashlib
import io
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bytelm.core.locks import Share, exclusive
from bytelm.data.sources.source import SingleSource
from bytelm.data.sources.tfds import Tfds, TfdsReader, import_tfds
from bytelm.data.text_record import Split

NAME = "python_stdlib"
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
"""Directories of installed packages, caches, tests (many are not text), and of one generated file
of 0.7 MB, which would be most of its split."""


def library_files() -> Iterator[tuple[str, Path]]:
    """The names and paths of the library's source and documentation files, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(set(subdirectories) - LEFT_OUT)
        for name in sorted(names):
            if name.endswith(ENDINGS):
                path = Path(directory, name)
                yield path.relative_to(root).as_posix(), path


@dataclass(frozen=True)
class PythonLibrary(SingleSource):
    """The source and documentation files of Python's standard library on this machine."""

    kind: ClassVar[str] = NAME

    @property
    def label(self) -> str:
        return NAME

    def reader(self, cache_path: Path) -> "PythonLibraryReader":
        return PythonLibraryReader(cache_path)


class PythonLibraryReader(TfdsReader):
    """The library as a TFDS dataset, prepared in the cache when it is first read."""

    def __init__(self, cache_path: Path) -> None:
        super().__init__(Tfds(dataset=NAME, text_key="text"))
        self._cache_path = cache_path

    def __reduce__(self) -> tuple[Any, ...]:
        return PythonLibraryReader, (self._cache_path,)

    @functools.cached_property
    def splits(self) -> dict[Split, str]:
        return {"train": "train"}

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the files' names and contents, so that different Pythons share no dataset."""
        digest = hashlib.blake2b(digest_size=16)
        for name, path in library_files():
            encoded, text = name.encode(), path.read_bytes()
            digest.update(b"%d %d %b%b" % (len(encoded), len(text), encoded, text))
        return digest.hexdigest()

    def inputs(self, split: Split) -> object:
        """The digest of the files; needs no TFDS."""
        return self.digest

    def size(self, split: Split) -> int:
        return sum(path.stat().st_size for _, path in library_files())

    @functools.cached_property
    def builder(self) -> Any:
        """The TFDS builder of the dataset, which is prepared if needed."""
        tfds = import_tfds(NAME)
        directory = self._cache_path / PREPARED / self.digest
        directory.mkdir(parents=True, exist_ok=True)
        with exclusive(directory / PREPARED_LOCK, f"prepare {NAME}"):
            builder = _builder_class(tfds)(data_dir=directory, file_format="array_record")
            tfds.disable_progress_bar()
            with contextlib.redirect_stdout(io.StringIO()):  # it claims to download
                builder.download_and_prepare()
        self._use = Share(directory / PREPARED_LOCK)  # no other process removes it
        return builder


@functools.cache
def _builder_class(tfds: Any) -> Any:
    """The builder class, defined here since TFDS may not be installed."""

    class PythonStdlib(tfds.core.GeneratorBasedBuilder):
        """One document for each source and documentation file."""

        VERSION = tfds.core.Version("{}.{}.{}".format(*sys.version_info))
        RELEASE_NOTES: ClassVar[dict[str, str]] = {}

        def _info(self) -> Any:
            text = tfds.features.Text
            return tfds.core.DatasetInfo(
                builder=self,
                description="Source and documentation files of the Python standard library.",
                features=tfds.features.FeaturesDict({"path": text(), "text": text()}),
                homepage="https://docs.python.org/3/library/",
                license="PSF-2.0",
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
            for name, path in library_files():
                yield name, {"path": name, "text": path.read_bytes()}

    return PythonStdlib
