"""The text that an evaluation reads, and how much of it the run was trained on.

The record of a run identifies its text by content. Documents of the run keep the splits that they
had there, wherever they are stored now; text that the run never read is scored whole.
"""

import abc
import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytelm.api import LoadedModel
from bytelm.core.checked import require_positive
from bytelm.core.errors import UserError
from bytelm.core.files import absolute
from bytelm.core.terminal_text import number_of, printable_name
from bytelm.core.texts import Texts, each_text
from bytelm.data.config import DataConfig, Files, Mixture
from bytelm.data.marks import WINDOW
from bytelm.data.open_data import Documents, OpenData
from bytelm.data.run_text import describe_source
from bytelm.data.sources.files import OPTIONS
from bytelm.data.sources.source import SPLITTING, SingleSource, open_source
from bytelm.data.tasks.task import Pair
from bytelm.data.text_record import ReadBytes, Split, TextRecord, check_split, passages

UNKNOWN = "whether it was trained on is not known, because the run has no record of all its text"


class EvaluationText(abc.ABC):
    """The text that an evaluation reads.

    Attributes:
        record: of the text that the run read; None for an older run.
        label: the split, or "all".
        name: a short description.
    """

    record: TextRecord | None

    @property
    @abc.abstractmethod
    def label(self) -> str: ...

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    @abc.abstractmethod
    def documents(self) -> Documents | Sequence[bytes]:
        """The documents, which can be read several times."""

    def pairs(self) -> Iterable[Pair] | None:
        """Inputs and targets, where these are what is read; None for documents."""
        return None

    def size(self, max_bytes: int | None = None) -> int:
        """The bytes of the documents, at most `max_bytes`."""
        read = self.documents()
        size = read.raw_bytes if isinstance(read, Documents) else sum(map(len, read))
        return min(size, _bytes_to_read(max_bytes))

    def about(self, max_bytes: int | None = None) -> dict[str, Any]:
        """Describes the first bytes of the text, and how many were trained on, ready for JSON.

        A document counts if any part of it was trained on. `trained_on_documents` and
        `trained_on_bytes` are None if that is unknown. They count whole passages; pieces are found
        among the sampled `windows`, of which `trained_on_windows` are in the training text.
        `fingerprint` is a hex digest of the bytes of all documents, wherever they are stored. Of
        pairs, inputs count as documents; the fingerprint has their targets too.
        """
        left = _bytes_to_read(max_bytes)
        sizes: list[int] = []
        counts: list[ReadBytes] = []
        marks: list[tuple[int, int]] = []
        content = hashlib.blake2b(digest_size=16)
        pairs = self.pairs()
        given = ((text, None) for text in self.documents()) if pairs is None else pairs
        for document, target, *_ in given:
            if left <= 0:
                break
            size = min(len(document), left)
            content.update(b"%d " % size + document[:size])
            if target is not None:
                content.update(b"to %d " % len(target) + target)
            sizes.append(size)
            if self.record is not None:
                counts.append(self.record.count(document, left))
                marks.append(self.record.count_marks(document[:size]))
            left -= size
        known = self.record is not None and self.record.complete
        return {
            "split": self.label,
            "source": self.name,
            "documents": len(sizes),
            "bytes": sum(sizes),
            "fingerprint": content.hexdigest(),
            "trained_on_documents": sum(c.trained > 0 for c in counts) if known else None,
            "trained_on_bytes": sum(c.trained for c in counts) if known else None,
            **self._sampled(marks),
            **self._changes(sum(sizes) - sum(count.read for count in counts)),
        }

    def _sampled(self, marks: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """How many windows were looked up, and are in the training text; none if unknown."""
        if self.record is None or self.record.marks is None or not self.record.complete:
            return {}
        found, known = map(sum, zip(*marks, strict=True)) if marks else (0, 0)
        return {"windows": found, "trained_on_windows": known}

    def _changes(self, unread_bytes: int) -> dict[str, Any]:
        """Differences from the run's text; the run did not read `unread_bytes` of this text."""
        return {}


@dataclass(frozen=True)
class GivenText(EvaluationText):
    """Documents from a program."""

    given: tuple[bytes, ...]
    record: TextRecord | None = None
    name: str = "the documents given"
    label = "all"

    def documents(self) -> tuple[bytes, ...]:
        return self.given


@dataclass(frozen=True)
class SplitText(EvaluationText):
    """A split of sources.

    Attributes:
        data: opened; text in the run's record keeps its split.
        whole: whether all documents are scored, because the run read few or none of them.
        is_run_text: whether these are the sources of the run, unchanged.
        overruled: options that have no effect, because the run's text keeps the run's splits.
    """

    data: OpenData
    split: Split
    record: TextRecord | None
    whole: bool = False
    is_run_text: bool = True
    overruled: tuple[str, ...] = ()

    @property
    def config(self) -> DataConfig:
        """How the text is read."""
        return self.data.config

    @property
    def label(self) -> str:
        return "all" if self.whole else self.split

    @property
    def name(self) -> str:
        first, found = self.config.source_configs[0], self.data.names[0]
        files: tuple[str, ...] = ()
        if isinstance(first, Files):
            own = getattr(first, OPTIONS[self.split])
            files, found = own or first.files, Path(own[0]).name if own else found
        more = " and others" if len(self.data.names) > 1 or len(files) > 1 else ""
        return printable_name(found) + more

    def documents(self) -> Documents:
        return Documents(self.data, self.split)

    def pairs(self) -> Iterable[Pair] | None:
        return self.config.task.pairs(self.data, self.split)

    def _changes(self, unread_bytes: int) -> dict[str, Any]:
        changed = any(source.record is not None for source in self.data.sources)
        new = {"new_bytes": unread_bytes} if changed else {}
        return {"overruled": list(self.overruled), **new}


def _bytes_to_read(max_bytes: int | None) -> int:
    return sys.maxsize if max_bytes is None else max_bytes


class FirstBytes:
    """The first `max_bytes` bytes of documents, all of them whole but the last.

    A cut document has no END: the END that is scored for it must not count.

    Documents are read lazily, and again in each iteration; with `max_bytes` None, all of them.

    Attributes:
        cut: whether the last iteration cut its last document, perhaps inside a word.
        given: how many documents the last iteration has given so far.

    Raises:
        UserError: if `max_bytes` is below 1.
    """

    def __init__(self, documents: Iterable[bytes], max_bytes: int | None):
        require_positive("max-bytes", max_bytes)
        self._documents = documents
        self._max_bytes = max_bytes
        self.cut, self.given = False, 0

    def __iter__(self) -> Iterator[bytes]:
        self.cut, self.given, left = False, 0, _bytes_to_read(self._max_bytes)
        for document in self._documents:
            self.cut = len(document) > left
            self.given += 1
            yield document[:left]
            left -= len(document)
            if left <= 0:
                return


def own_text(loaded: LoadedModel, documents: Iterable[bytes], name: str) -> dict[str, Any]:
    """Describes text that an evaluation reads by itself, for `Result.text`.

    It says how many of its bytes the run was trained on, and has a fingerprint of its content.

    Args:
        documents: whole, as the run would have read them: passages that a run has read are known
            by their content, and a sentence alone is not the document that contains it.
        name: of the text, such as that of its file.
    """
    return GivenText(tuple(documents), loaded.text_record, printable_name(name)).about()


def text_to_evaluate(
    loaded: LoadedModel, text: EvaluationText | Texts | None, split: str | None = None
) -> EvaluationText:
    """The given text, or a split of the run's data if `text` is None."""
    if text is None:
        return evaluation_text(loaded, loaded.config.data, split)
    if isinstance(text, EvaluationText):
        return text
    return GivenText(tuple(each_text(text)), loaded.text_record)


def evaluation_text(loaded: LoadedModel, data: DataConfig, split: str | None = None) -> SplitText:
    """The split of sources that a model is evaluated on.

    With `split` None it is the one whose files the data name and the run did not have, validation
    before test; if there are none, validation, or all documents of `data.files` if the run read
    less than half of them.

    Raises:
        UserError: for a split of another name, or a bad source.
    """
    known = None if split is None else check_split(split)
    record = loaded.text_record
    if data.task.makes_text:
        return SplitText(OpenData(data), known or "validation", record)
    run = loaded.config.data
    of_run = _run_sources(run, record)
    as_run = [_as_in_run(source, data, run, of_run) for source in data.source_configs]
    is_run_text = None not in as_run
    files = data.source
    if isinstance(files, Files) and known is None:
        known = _split_named(files, run)
        if known is None and not is_run_text and not _is_of_run(files, data, run, record):
            whole = dataclasses.replace(files, held_out=0.0, validation_files=(), test_files=())
            opened = OpenData(dataclasses.replace(data, source=whole))
            return SplitText(opened, "train", record, True, False)
    pairs = list(zip(data.source_configs, as_run, strict=True))
    configs = tuple(kept or asked for asked, kept in pairs)
    source = Mixture(configs) if isinstance(data.source, Mixture) else configs[0]
    opened = OpenData(dataclasses.replace(data, source=source))
    overruled = tuple(
        name
        for name in SPLITTING
        if any(kept and getattr(asked, name) != getattr(kept, name) for asked, kept in pairs)
    )
    known = known or "validation"
    sources = tuple(
        source
        if kept or source.stored_split(known) != "train" or record is None
        else dataclasses.replace(source, record=record)
        for source, kept in zip(opened.sources, as_run, strict=True)
    )
    opened = OpenData(opened.config, sources)
    return SplitText(opened, known, record, False, is_run_text, overruled)


def describe_text(about: Mapping[str, Any]) -> str:
    """How much of a text was trained on, in words; `about` is from `EvaluationText.about`."""
    new = ""
    if about.get("new_bytes"):
        new = f"; {about['new_bytes']:,} of its {about['bytes']:,} bytes are new to the run"
    if about.get("overruled"):
        options = " and ".join(f"data.{name}" for name in about["overruled"])
        new += f"; {options} had no effect, because the run's text keeps the run's splits"
    if about["trained_on_bytes"] is None:
        return UNKNOWN + new
    if pieces := shared_windows(about):
        new = f"; {pieces}{new}"
    if not about["trained_on_bytes"]:
        return f"no {'whole ' if pieces else ''}passage of it was trained on{new}"
    return (
        f"{about['trained_on_bytes']:,} of its {about['bytes']:,} bytes were trained on, in "
        f"{about['trained_on_documents']:,} of {number_of(about['documents'], 'document')}{new}"
    )


def shared_windows(about: Mapping[str, Any]) -> str:
    """The share of sampled windows in the training text, in words; "" if none is known to be."""
    if not about.get("trained_on_windows"):
        return ""
    share = about["trained_on_windows"] / about["windows"]
    return f"about {share:.1%} of its windows of {WINDOW} bytes are in the training text"


def _run_sources(run: DataConfig, record: TextRecord | None) -> list[dict[str, Any]]:
    """Describes the run's sources; those of an older run as they are now."""
    if record is not None and record.sources:
        return list(record.sources)
    found = []
    for source in run.source_configs:
        try:
            found.append(describe_source(open_source(source, run.cache_path)))
        except UserError:  # its files are gone
            continue
    return found


def _as_in_run(
    source: SingleSource, data: DataConfig, run: DataConfig, of_run: list[dict[str, Any]]
) -> SingleSource | None:
    """The source with the run's splits; None if the run did not read it."""
    text = describe_source(open_source(source, data.cache_path))["text"]
    if text is None:  # TFDS is not installed: compare the other options
        ours = {name: getattr(source, name) for name in (*SPLITTING, "weight")}
        same = (dataclasses.replace(had, **ours) == source for had in run.source_configs)
        return source if any(same) else None
    for had in of_run:
        if had["text"] == text:
            return dataclasses.replace(source, **{name: had[name] for name in SPLITTING})
    return None


def _split_named(files: Files, run: DataConfig) -> Split | None:
    """The split whose files are named, and are not those of the run."""
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        named, had = (getattr(source, OPTIONS[split], ()) for source in (files, run.source))
        if named not in ((), had):
            return split
    return None


def _is_of_run(files: Files, data: DataConfig, run: DataConfig, record: TextRecord | None) -> bool:
    """Whether files are the run's: by name, or by at least half of their text."""
    names = absolute(files.files)
    had = (source.files for source in run.source_configs if isinstance(source, Files))
    if any(names == absolute(each) for each in had):
        return True
    if record is None:
        return False
    size = known = 0
    for document in files.reader(data.cache_path).documents("train"):
        size += len(document.text)
        masks = record.masks(passages(document.text))
        known += sum(len(p) for p, mask in zip(passages(document.text), masks, strict=True) if mask)
    return 2 * known >= size > 0
