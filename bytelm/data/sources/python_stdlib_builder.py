"""The TFDS dataset `python_stdlib`: the Python standard library on this machine, as text."""

import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from bytelm.data.sources.python_stdlib import library_files, library_root


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
    """One document for each source and documentation file; needs neither network nor TensorFlow."""

    VERSION = tfds.core.Version("{}.{}.{}".format(*sys.version_info))
    RELEASE_NOTES: ClassVar[dict[str, str]] = {}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Source and documentation files of the Python standard library.",
            features=tfds.features.FeaturesDict(
                {"path": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            homepage="https://docs.python.org/3/library/",
            license="PSF-2.0",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        root = library_root()
        for path in library_files(root):
            name = path.relative_to(root).as_posix()
            yield name, {"path": name, "text": path.read_bytes()}
