"""Documents of a dataset of the Hugging Face hub, or of a folder of one, read by `datasets`."""

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bytelm.core.errors import UserError
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

PREFIX = "hf:"
"""Begins the names of these datasets."""
NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:/([\w.-]+))?(?:@([\w./-]+))?")
"""Its groups are the dataset, such as `allenai/c4`, the config and the revision."""
SAVED = ("dataset_dict.json", "state.json")
"""Files of a folder that `save_to_disk` wrote, with several splits and with one."""
UNKNOWN_BYTES = 2**30
"""A guess where a dataset does not say how large it is."""


@dataclass(frozen=True)
class HuggingFace(SingleSource):
    """A text dataset of the Hugging Face hub, or a folder."""

    kind: ClassVar[str] = "hugging_face"

    dataset: str = ""
    """`hf:NAME`, with /CONFIG and @REVISION if it has them, such as `hf:allenai/c4/en`; or a folder
    of files or of `save_to_disk`, as `hf:FOLDER`."""
    train_split: str | None = None
    """Split to train on, such as `train[:90%]`; none = `train`, or the only one, unless it is named
    for validation or the test."""
    validation_split: str | None = None
    """Split for validation; none = `validation` or `valid`, or else chosen by hash."""
    test_split: str | None = None
    """Split for the test; none = `test`, or else chosen by hash."""
    text_key: str | None = None
    """Column of the text, also a nested one such as `page.text`; none = `text`, or the only one."""
    target_key: str | None = None
    """Column of the target, for the task `pairs`; the first of a list is used."""
    script_key: str | None = None
    """Column of the document's script; none = unknown."""
    skip_bad: bool = False
    """Count and skip rows without a value instead of stopping."""
    streaming: bool = False
    """Pack while downloading, without a copy of the dataset on this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset.removeprefix(PREFIX):
            raise UserError(f"data.dataset is {self.dataset}; name a dataset, as in hf:allenai/c4.")

    @property
    def label(self) -> str:
        name = self.dataset.removeprefix(PREFIX)
        return Path(name).name if Path(name).is_dir() else self.dataset

    @property
    def has_targets(self) -> bool:
        return self.target_key is not None

    def reader(self, cache_path: Path) -> "HuggingFaceReader":
        return HuggingFaceReader(self)


class HuggingFaceReader(Reader):
    """Documents of a dataset, which `datasets` downloads into its own cache.

    The first reading raises UserError for an unknown dataset, config, revision, split or column,
    and where the hub cannot be reached.
    """

    def __init__(self, config: HuggingFace) -> None:
        self.name = config.label
        self._config = config

    @functools.cached_property
    def _place(self) -> dict[str, Any]:
        """The arguments of `datasets` that name the dataset."""
        name = self._config.dataset.removeprefix(PREFIX)
        folder = Path(name).expanduser()
        if folder.is_dir():
            return {"path": str(folder)}
        match = NAME.fullmatch(name)
        if match is None:
            raise UserError(
                f"data.dataset is {self._config.dataset}, which is neither a folder nor "
                "NAME/CONFIG@REVISION; an example is hf:allenai/c4/en."
            )
        path, config, revision = match.groups()
        return {"path": path, "name": config, "revision": revision}

    @property
    def _is_saved(self) -> bool:
        return any(Path(self._place["path"], name).is_file() for name in SAVED)

    @functools.cached_property
    def _saved(self) -> dict[str, Any]:
        """The splits of a folder of `save_to_disk`."""
        with self._explained() as datasets:
            found = datasets.load_from_disk(self._place["path"])
        return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}

    @functools.cached_property
    def _builder(self) -> Any:
        with self._explained() as datasets:
            return datasets.load_dataset_builder(**self._place)

    @functools.cached_property
    def splits(self) -> dict[Split, str]:
        """Its name for each split that is stored."""
        if self._is_saved:
            available = list(self._saved)
        else:
            place = {name: value for name, value in self._place.items() if name != "name"}
            config = self._place.get("name")
            with self._explained() as datasets:
                available = datasets.get_dataset_split_names(config_name=config, **place)
        named = {split: getattr(self._config, f"{split}_split") for split in SPLITS}
        for name in filter(None, named.values()):
            if name.partition("[")[0] not in available:
                raise UserError(
                    f"{self.name} has no split {name!r}; it has {', '.join(available)}."
                )
        return usual_splits(self.name, available, named)

    @property
    def own_splits(self) -> frozenset[Split]:
        return frozenset(self.splits)

    @property
    def settings(self) -> dict[str, object]:
        config = self._config
        optional = {"script_key": config.script_key, "target_key": config.target_key}
        return {
            "text_key": config.text_key,
            "skip_bad": config.skip_bad,
            **{name: key for name, key in optional.items() if key is not None},
        }

    def inputs(self, split: Split) -> object:
        """The fingerprint that `datasets` gives the split: a JSON value that changes with it."""
        name = self.splits[split]
        if self._is_saved:
            return [name, self._loaded(name)._fingerprint]
        builder = self._builder
        return [builder.dataset_name, builder.config_id, builder.hash, name]

    def size(self, split: Split) -> int:
        name = self.splits[split].partition("[")[0]
        known = self._saved[name] if self._is_saved else None
        info = (self._builder.info.splits or {}).get(name) if known is None else None
        size = known.dataset_size if known is not None else getattr(info, "num_bytes", None)
        return int(size or UNKNOWN_BYTES)

    def documents(self, split: Split) -> Iterator[Document]:
        return self._read(split)

    def shards(self, split: Split) -> list[InputShard]:
        if self._config.streaming:
            return super().shards(split)
        dataset = self._loaded(self.splits[split])
        return row_shards(self.inputs(split), split, len(dataset), dataset.data.nbytes)

    def read(self, shard: InputShard) -> Iterator[Document]:
        if self._config.streaming:
            return super().read(shard)
        return self._read(*shard.place)

    def _read(self, split: Split, begin: int = 0, end: int | None = None) -> Iterator[Document]:
        """The documents of rows `begin` to `end`; None for the last."""
        from bytelm.data.sources.tables import ROWS, document_of, find_column, numbered_rows

        self.skipped = 0
        with self._explained():
            dataset = self._loaded(self.splits[split])
            if end is not None:
                dataset = dataset.select(range(begin, end))
            if dataset.features is None:  # a stream of files without a schema
                dataset = dataset._resolve_features()
            config, schema = self._config, dataset.features.arrow_schema
            more = [name for name in (config.script_key, config.target_key) if name is not None]
            paths = [find_column(schema, name, self.name) for name in (config.text_key, *more)]
            dataset = dataset.select_columns(sorted({path[0] for path in paths}))
            tables = dataset.with_format("arrow").iter(batch_size=ROWS)
            batches = (batch for table in tables for batch in table.to_batches())
            for number, row in numbered_rows(batches, paths):
                try:
                    yield document_of(row, has_script=config.script_key is not None)
                except ValueError as error:
                    self.skipped += 1
                    if not config.skip_bad:
                        raise UserError(
                            f"{self.name}, row {begin + number}: {error}; skip such rows with "
                            "--data.skip-bad."
                        ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes that pack open the dataset themselves."""
        return HuggingFaceReader, (self._config,)

    def random_access(self, split: Split) -> "HuggingFaceDocuments | None":
        from bytelm.data.sources.tables import find_column

        if self._config.streaming:
            return None
        dataset = self._loaded(self.splits[split])
        schema = dataset.features.arrow_schema
        return HuggingFaceDocuments(dataset, find_column(schema, self._config.text_key, self.name))

    @functools.cache  # noqa: B019 (a reader lives as long as the run)
    def _loaded(self, name: str) -> Any:
        """A split, of which `name` may name a part, as in `train[:90%]`."""
        if self._is_saved:
            if name in self._saved:
                return self._saved[name]
            raise UserError(f"{self.name} is a saved folder, of which {name} is no split.")
        with self._explained() as datasets:
            return datasets.load_dataset(
                **self._place, split=name, streaming=self._config.streaming
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[Any]:
        """The package; its errors, of many classes, become one sentence."""
        try:
            import datasets
        except ImportError as error:
            raise NotInstalledError(
                f"the dataset {self._config.dataset} needs the package datasets ({error}); run "
                "`pip install datasets`."
            ) from error
        try:
            yield datasets
        except UserError:
            raise
        except Exception as error:
            cause = error.__cause__ or error  # "an error occurred" hides what it was
            reason = str(cause).strip().partition("\n")[0].rstrip(".")
            raise UserError(
                f"{self._config.dataset} cannot be read: {reason or type(error).__name__}; check "
                "data.dataset, and that the hub can be reached or the dataset was downloaded."
            ) from error


class HuggingFaceDocuments:
    """Random access to the texts of one split, as bytes; can be pickled."""

    def __init__(self, dataset: Any, path: list[str]) -> None:
        self._dataset, self._path = dataset.select_columns(path[:1]), path

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> bytes:
        value = self._dataset[int(index)]
        for name in self._path:
            value = None if value is None else value[name]
        if not isinstance(value, str | bytes):
            raise UserError(
                f"row {index + 1} of the dataset has no string as {'.'.join(self._path)}; "
                "--data.read packed names such rows, or skips them with --data.skip-bad."
            )
        return value.encode() if isinstance(value, str) else value
