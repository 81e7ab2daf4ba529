"""Documents of a dataset of TensorFlow Datasets (TFDS), read without TensorFlow."""

import contextlib
import difflib
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bytelm.core.errors import UserError, first_line
from bytelm.core.files import is_utf8
from bytelm.core.places import is_address_text, place
from bytelm.data.sources.reader import (
    Document,
    InputShard,
    NotInstalledError,
    Reader,
    row_shards,
)
from bytelm.data.sources.source import SingleSource
from bytelm.data.sources.stored_splits import usual_splits
from bytelm.data.text_record import SPLITS, Split

NAMESPACE = re.compile(r"[\w-]+:(?![\d*]+\.)")
"""Namespace before a dataset's name, as in `huggingface:pg19`; `pg19:1.0.0` has a version."""

OWN = re.compile(r"tensorflow_datasets\.core\.features\.[a-z_]+\.[A-Za-z]+")
"""Names of TFDS's own feature classes."""
GOOGLE = "gs://"
"""The addresses that the library of TFDS's files, ArrayRecord, opens by itself."""


@dataclass(frozen=True)
class Tfds(SingleSource):
    """A text dataset of TFDS, prepared on this machine."""

    kind: ClassVar[str] = "tfds"

    dataset: str = ""
    """`name`, `name/config` or `name/config:1.0.0`; `python_stdlib` is the standard library of this
    Python."""
    data_dir: str | None = None
    """Directory of the prepared dataset; none = TFDS's default."""
    train_split: str | None = None
    """TFDS split to train on, such as `train[:90%]`; none = `train`, or the only one, unless it is
    named for validation or the test."""
    validation_split: str | None = None
    """TFDS split for validation; none = `validation` or `valid`, or else chosen by hash."""
    test_split: str | None = None
    """TFDS split for the test; none = `test`, or else chosen by hash."""
    text_key: str | None = None
    """Text feature of the dataset; none = `text`, or the only one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset:
            raise UserError("data.dataset is empty; name a dataset of TFDS.")

    @property
    def label(self) -> str:
        return self.dataset

    def reader(self, cache_path: Path) -> "TfdsReader":
        return TfdsReader(self)


def import_tfds(dataset: str) -> Any:
    """The module `tensorflow_datasets`; packed text is read without it."""
    try:
        import tensorflow_datasets
        import tensorflow_datasets.text  # registers the text datasets
    except ImportError as error:
        raise NotInstalledError(
            f"the dataset {dataset} is not packed yet, and packing it needs tensorflow-datasets "
            f"({error}); run `pip install tensorflow-datasets importlib_resources`."
        ) from error
    return tensorflow_datasets


class TfdsDocuments:
    """Random access to the texts of one split, as bytes; can be pickled."""

    def __init__(self, examples: Any, text_key: str, place: str) -> None:
        """Reads the feature `text_key` of examples; `place` names the dataset and its folder."""
        self._examples = examples
        self._text_key = text_key
        self._place = place

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> bytes:
        try:
            text = self._examples[index][self._text_key]
        except (RuntimeError, ValueError, OSError) as error:
            reason = first_line(error).rstrip(".")
            raise UserError(
                f"{self._place} cannot be read, or is damaged: {reason}; prepare it once more."
            ) from error
        return text.encode() if isinstance(text, str) else bytes(text)


class TfdsReader(Reader):
    """Documents of a prepared TFDS dataset; nothing is downloaded.

    The first reading raises UserError for an unknown dataset, config, version, split or text
    feature, and for a dataset that is not prepared, or prepared without random access.
    """

    def __init__(self, config: Tfds) -> None:
        self.name = config.dataset
        self._config = config

    @functools.cached_property
    def builder(self) -> Any:
        if NAMESPACE.match(self.name):
            raise UserError(
                f"data.dataset is {self.name}, of a namespace whose code or data TFDS would fetch; "
                "name a dataset of TFDS's own, or one prepared in --data.data-dir."
            )
        data_dir = self._config.data_dir
        if data_dir is not None and not is_address_text(data_dir):
            data_dir = str(place(data_dir))  # without file://
        if data_dir is not None and is_address_text(data_dir) and not data_dir.startswith(GOOGLE):
            raise UserError(
                f"data.data_dir is {data_dir}, and TFDS's files of examples are read on a disk or "
                f"at {GOOGLE} alone; copy the folder to a disk."
            )
        if data_dir is not None and not is_utf8(os.path.abspath(os.path.expanduser(data_dir))):
            raise UserError(
                f"data.data_dir is {data_dir}, whose path is not UTF-8, and TFDS cannot open its "
                "files; name a link to it."
            )
        tfds = import_tfds(self.name)
        try:
            with own_features_only(tfds):
                builder = tfds.builder(self.name, data_dir=data_dir)
                _ = builder.info.features
        except tfds.core.DatasetNotFoundError:
            raise UserError(_unknown(tfds, self.name)) from None
        except (AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"TFDS cannot open {self.name}: {reason}") from error
        if not builder.info.splits:
            raise UserError(
                f"the TFDS dataset {self.name} is not prepared in {builder.data_path}; "
                f"{_how_to_prepare(self.name)}, or say where it is with --data.data-dir."
            )
        return builder

    @functools.cached_property
    def splits(self) -> dict[Split, str]:
        available = list(self.builder.info.splits)
        named = {split: getattr(self._config, f"{split}_split") for split in SPLITS}
        chosen = usual_splits(self.name, available, named)
        for name in chosen.values():
            try:
                self.builder.info.splits[name]
            except (KeyError, ValueError):
                raise UserError(
                    f"{self.name} has no split {name!r}; it has {', '.join(available)}."
                ) from None
        return chosen

    @property
    def own_splits(self) -> frozenset[Split]:
        return frozenset(self.splits)

    @property
    def settings(self) -> dict[str, object]:
        config = self._config
        splits = [getattr(config, f"{split}_split") for split in SPLITS]
        return {"dataset": config.dataset, "text_key": config.text_key, "splits": splits}

    def inputs(self, split: Split) -> object:
        """Name, version and shard sizes: a JSON value that changes with the data."""
        info, part = self.builder.info, self.builder.info.splits[self.splits[split]]
        return [info.full_name, str(self.builder.data_path), self.splits[split], part.num_examples]

    def size(self, split: Split) -> int:
        return int(self.builder.info.splits[self.splits[split].split("[")[0]].num_bytes)

    def random_access(self, split: Split) -> TfdsDocuments:
        try:
            examples = self.builder.as_data_source(self.splits[split])
        except NotImplementedError:
            raise UserError(
                f"{self.name} in {self.builder.data_path} is prepared in the format "
                f"{self.builder.info.file_format.value}, which has no random access; "
                f"{_how_to_prepare(self.name)}."
            ) from None
        place = f"the TFDS dataset {self.name} in {self.builder.data_path}"
        return TfdsDocuments(examples, self._text_feature(), place)

    def documents(self, split: Split) -> Iterator[Document]:
        texts = self.random_access(split)
        return (Document(texts[index]) for index in range(len(texts)))

    def shards(self, split: Split) -> list[InputShard]:
        rows = len(self.random_access(split))
        return row_shards(self.inputs(split), split, rows, self.size(split))

    def read(self, shard: InputShard) -> Iterator[Document]:
        split, begin, end = shard.place
        texts = self.random_access(split)
        return (Document(texts[index]) for index in range(begin, end))

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes that pack open the dataset themselves."""
        return TfdsReader, (self._config,)

    def _text_feature(self) -> str:
        tfds = import_tfds(self.name)
        features = self.builder.info.features
        texts = [name for name, kind in features.items() if isinstance(kind, tfds.features.Text)]
        wanted = self._config.text_key
        if wanted is not None and wanted not in texts:
            raise UserError(
                f"{self.name} has no text feature {wanted!r}; its text features: "
                f"{', '.join(texts) or 'none'}."
            )
        if wanted is not None or "text" in texts:
            return wanted or "text"
        if len(texts) != 1:
            raise UserError(
                f"it is unclear which feature of {self.name} is the text; name one of "
                f"{', '.join(texts) or 'none'} with --data.text-key."
            )
        return str(texts[0])


def _how_to_prepare(name: str) -> str:
    return (
        'prepare it where there is a network with `python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\"` (some "
        "datasets need TensorFlow for that)"
    )


def _unknown(tfds: Any, name: str) -> str:
    wanted = name.split("/")[0].split(":")[0]
    known = ["python_stdlib", *tfds.list_builders(with_community_datasets=False)]
    near = difflib.get_close_matches(wanted, known, n=3)
    nearest = f"; the nearest names are {', '.join(near)}" if near else ""
    return f"TFDS has no dataset named {name!r}{nearest}; for local files use --data.files."


@contextlib.contextmanager
def own_features_only(tfds: Any) -> Iterator[None]:
    """A context in which TFDS raises `ValueError` before it imports foreign classes.

    TFDS imports any module that a dataset's `features.json` names, so that opening a dataset from
    someone else would run their code. Its own classes, and imported ones, are allowed.
    """
    connector = tfds.features.FeatureConnector
    class_method = vars(connector)["cls_from_name"]

    def cls_from_name(cls: Any, name: str) -> Any:
        if name not in cls._registered_features and not OWN.fullmatch(name):
            raise ValueError(
                f"its features.json names the class {name}, which is not TFDS's own and is not "
                "imported"
            )
        return class_method.__func__(cls, name)

    connector.cls_from_name = classmethod(cls_from_name)
    try:
        yield
    finally:
        connector.cls_from_name = class_method
