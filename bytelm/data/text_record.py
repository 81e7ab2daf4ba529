"""The record of a run's text: the hash and the split of each passage that it read.

Passages are parts of a document that identify it, even after it has grown. A passage ends at a line
end chosen by a hash of the bytes before it, or else at the last line end before LONGEST bytes. So
its end depends only on its own bytes: text that is added to a document changes only the passages
that it touches.

Marks (`bytelm.data.marks`) find pieces that hold no whole passage: a sample of all windows of the
training text, in which the share that another text has in common with it can be estimated.
"""

import bisect
import functools
import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from bytelm.core.errors import UserError
from bytelm.core.files import write_whole
from bytelm.data.marks import MOST, kept, marks_of, marks_within, numbers_at_all

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

SHORTEST = 4096
"""Least bytes of a passage, except the last one of a document."""
LONGEST = 16384
"""Most bytes of a passage."""
KEY_BYTES = 32
"""A line end is chosen by a hash of this many bytes, which include the newline."""
CHOSEN_BITS = 6
"""One of 2**6 line ends is chosen on average."""
MULTIPLIERS = np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, KEY_BYTES // 8 + 1, dtype=np.uint64)
"""Factors of a key's 64-bit parts, whose sum is the hash (multiplicative hashing)."""
TOGETHER = 2**20
"""Bytes of a text whose line ends are looked at together, which bounds the memory."""
DIGEST_BYTES = 8
FILE = "text_record.npz"
"""File of a run directory that holds its record."""
PLACED = np.dtype([("digest", "<u8"), ("split", "u1")])
"""A passage on disk: its digest, and the index of its split; or a mark, with MARK."""
MARK = len(SPLITS)
"""In place of a split: a mark of the train split."""

WAITING = "waiting"
"""Key of a source in a record that has none of its text, because it was not all packed yet."""
ABOUT_SOURCE = {"name", "held_out", "split_above", "text", "test", "places"}
"""Keys of each source in a record (`bytelm.data.run_text.describe_source`)."""
TRAINED = 1 << SPLITS.index("train")
"""Bit of a passage's mask: it was trained on."""


def check_split(name: str) -> Split:
    """The name, if it is that of a split; UserError otherwise."""
    if name not in SPLITS:
        raise UserError(f"there is no split {name!r}; choose one of {', '.join(SPLITS)}.")
    return name


def digest(text: bytes) -> int:
    """A 64-bit hash of a text, which also decides its split."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest())


def passages(text: bytes) -> Iterator[bytes]:
    """The passages of a document in order; joined they are the document, and an empty one has none.

    Joined consecutive passages, as a document of their own, have the same passages.
    """
    begin = 0
    for end in passage_ends(text, (0, len(text))):
        yield text[begin:end]
        begin = end


def passage_ends(text: bytes, edges: Sequence[int]) -> list[int]:
    """Where the passages of documents that follow one another end.

    Args:
        text: the documents, joined.
        edges: where each begins, and last the length of all.
    """
    ends: list[int] = []
    chosen: list[int] | None = None
    for begin, end in itertools.pairwise(edges):
        while end - begin > SHORTEST:
            if chosen is None:
                chosen = _chosen_line_ends(text)
            begin = _passage_end(text, chosen, begin, end)
            ends.append(begin)
        if begin < end:
            ends.append(end)
    return ends


def _chosen_line_ends(text: bytes) -> list[int]:
    """Where the lines end that a hash of the bytes before their ends chooses."""
    symbols = np.frombuffer(text, np.uint8)
    numbers, found = numbers_at_all(symbols, ">u8"), []
    for begin in range(0, len(text), TOGETHER):
        ends = np.flatnonzero(symbols[begin : begin + TOGETHER] == ord("\n")) + begin + 1
        ends = ends[ends >= SHORTEST]  # others end no passage, and may lack a whole key
        # The last 8 bytes are the first number, and the last of them its lowest.
        keys = numbers[ends[:, None] - np.arange(8, KEY_BYTES + 8, 8)]  # [ends, KEY_BYTES / 8]
        hashes = (keys.astype(np.uint64) * MULTIPLIERS).sum(axis=1)
        found.append(ends[hashes >> np.uint64(64 - CHOSEN_BITS) == 0])
    return np.concatenate(found).tolist()


def _passage_end(text: bytes, chosen: list[int], begin: int, end: int) -> int:
    """The end of the passage at `begin` of a document that ends at `end`, after SHORTEST bytes."""
    last = min(begin + LONGEST, end)
    first_chosen = bisect.bisect_left(chosen, begin + SHORTEST)
    if first_chosen < len(chosen) and chosen[first_chosen] <= last:
        return chosen[first_chosen]
    if last < begin + LONGEST:
        return end
    line_end = text.rfind(b"\n", begin + SHORTEST - 1, last) + 1
    return line_end or begin + _character_end(text[begin:last])


def _character_end(window: bytes) -> int:
    """The end of the last whole UTF-8 character; of the window, if it is not UTF-8."""
    for back in range(1, 5):
        byte = window[-back]
        if byte & 0xC0 != 0x80:  # no continuation: a character starts here
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(window) - back if size > back else len(window)
    return len(window)


class ReadBytes(NamedTuple):
    """Bytes of a text in any split of a run, and bytes in its train split."""

    read: int
    trained: int


@dataclass(frozen=True, eq=False)
class TextRecord:
    """Passages and their splits."""

    digests: np.ndarray
    """Of the passages, uint64 `[passages]`, unique and ascending."""
    splits: np.ndarray
    """Masks, uint8 `[passages]`: bit k is set if the passage was in split k of `SPLITS`."""
    complete: bool
    """Whether it has all text that the parameters were trained on: False if text was streamed, or
    if the run continued one without a record."""
    sources: tuple[dict[str, Any], ...] = ()
    """`describe_source` of each source (`bytelm.data.run_text`)."""
    marks: np.ndarray | None = None
    """Of the text that was trained on, uint64, unique and ascending; None in older records."""
    mark_bits: int = 0
    """Only marks that end in so many zero bits are kept."""

    def masks(self, found: Iterable[bytes]) -> np.ndarray:
        """The mask of each passage, uint8 `[passages]`; 0 for unknown ones."""
        wanted = np.array([digest(passage) for passage in found], np.uint64)
        if not len(self.digests):
            return np.zeros(len(wanted), np.uint8)
        indices = np.searchsorted(self.digests, wanted).clip(max=len(self.digests) - 1)
        return np.where(self.digests[indices] == wanted, self.splits[indices], 0).astype(np.uint8)

    def count(self, text: bytes, first: int | None = None) -> "ReadBytes":
        """How many of the `first` bytes of a text the run read and was trained on; None = all."""
        left, read, trained = len(text) if first is None else first, 0, 0
        for passage, mask in zip(passages(text), self.masks(passages(text)), strict=True):
            size = min(len(passage), max(left, 0))
            left -= size
            read += size * bool(mask)
            trained += size * bool(mask & TRAINED)
        return ReadBytes(read, trained)

    def count_marks(self, text: bytes) -> tuple[int, int]:
        """How many marks a text has, of those that are kept, and how many were trained on."""
        if self.marks is None:
            return 0, 0
        found = kept(marks_of(text), self.mark_bits)
        return len(found), int(np.isin(found, self.marks).sum())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of the passages and their splits."""
        content = self.digests.astype("<u8").tobytes() + self.splits.tobytes()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def followed_by(self, later: "TextRecord") -> "TextRecord":
        """The record of a run that first read this text and then the later one.

        Trained passages stay trained; otherwise the splits of the later text count.
        """
        is_known = self.complete or self._waits_for(later)
        again = np.isin(self.digests, later.digests)
        earlier = np.where(again, self.splits & np.uint8(TRAINED), self.splits)
        digests = np.concatenate([self.digests, later.digests])
        masks = np.concatenate([earlier, later.splits])
        marks = None
        if self.marks is not None and later.marks is not None:
            marks = _Marks(max(self.mark_bits, later.mark_bits))
            marks.add(np.concatenate([self.marks, later.marks]))
        sources = later.sources
        if not is_known:
            sources = tuple({**each, WAITING: False} for each in sources)
        return _record(digests, masks, is_known and later.complete, sources, marks)

    def _waits_for(self, later: "TextRecord") -> bool:
        """Whether it lacks only text of shards that were not packed, and the later one has them."""
        known = [(each["text"], each["test"]) for each in later.sources]
        return bool(self.sources) and all(
            source.get(WAITING, False) and (source["text"], source["test"]) in known
            for source in self.sources
        )

    def save(self, run: Path) -> None:
        """Writes the record into a run directory, atomically."""
        fields = {"complete": self.complete, "sources": self.sources}
        if self.marks is not None:
            fields["mark_bits"] = self.mark_bits
        content = io.BytesIO()
        text = np.frombuffer(json.dumps(fields).encode(), np.uint8)
        marks = np.zeros(0, np.uint64) if self.marks is None else self.marks
        np.savez(content, digests=self.digests, splits=self.splits, about=text, marks=marks)
        write_whole(run / FILE, content.getvalue())


def make_record(
    placed: Iterable[np.ndarray], complete: bool, sources: Sequence[dict[str, Any]]
) -> TextRecord:
    """The record of some passages, arrays of PLACED, which may repeat.

    Memory holds one array at a time, the distinct passages, and a bounded number of marks.
    """
    passages_found, marks = [np.zeros(0, PLACED)], _Marks()
    for rows in placed:
        is_mark = rows["split"] == MARK
        marks.add(rows["digest"][is_mark])
        passages_found.append(rows[~is_mark])
    found = np.concatenate(passages_found)
    masks = np.left_shift(np.uint8(1), found["split"])
    return _record(found["digest"], masks, complete, sources, marks)


class _Marks:
    """Distinct marks: about MOST at a time, of more of them those that end in more zero bits."""

    def __init__(self, bits: int = 0) -> None:
        self.bits, self.found = bits, np.zeros(0, np.uint64)
        self._new: list[np.ndarray] = []
        self._count = 0

    def add(self, marks: np.ndarray) -> None:
        self._new.append(kept(marks, self.bits))
        self._count += len(self._new[-1])
        if self._count > MOST:
            self.settle()

    def settle(self) -> np.ndarray:
        """All of them, ascending."""
        self.found = kept(np.unique(np.concatenate([self.found, *self._new])), self.bits)
        self._new, self._count = [], 0
        while len(self.found) > MOST:
            self.bits += 1
            self.found = kept(self.found, self.bits)
        return self.found


def load_record(run: Path) -> TextRecord | None:
    """The record in a run directory; None if it is missing or unreadable."""
    try:
        with np.load(io.BytesIO((run / FILE).read_bytes()), allow_pickle=False) as arrays:
            digests, splits = arrays["digests"], arrays["splits"]
            about = json.loads(arrays["about"].tobytes())
            marks = arrays["marks"] if "mark_bits" in about else None
        sources, complete = tuple(about["sources"]), about["complete"] is True
        described = all(
            isinstance(source, dict) and source.keys() >= ABOUT_SOURCE for source in sources
        )
    except (OSError, EOFError, zipfile.BadZipFile, LookupError, ValueError, TypeError):
        return None
    right = digests.dtype == np.uint64 and splits.dtype == np.uint8
    if not (described and right and digests.shape == splits.shape):
        return None
    bits = about.get("mark_bits", 0)
    return TextRecord(digests, splits, complete, sources, marks, bits)


def placed_passages(texts: Sequence[bytes], split: Split) -> np.ndarray:
    """The passages of texts in a split, and their marks if that is the train split, as PLACED."""
    joined = b"".join(texts)
    edges = list(itertools.accumulate(map(len, texts), initial=0))
    ends, view = passage_ends(joined, edges), memoryview(joined)
    found = b"".join(
        hashlib.blake2b(view[begin:end], digest_size=DIGEST_BYTES).digest()
        for begin, end in itertools.pairwise([0, *ends])
    )
    marks = marks_within(joined, edges)[0] if split == "train" else np.zeros(0, np.uint64)
    rows = np.empty(len(ends) + len(marks), PLACED)
    rows["digest"] = np.concatenate([np.frombuffer(found, ">u8").astype(np.uint64), marks])
    rows["split"] = np.repeat([SPLITS.index(split), MARK], [len(ends), len(marks)])
    return rows


def _record(
    digests: np.ndarray,
    masks: np.ndarray,
    complete: bool,
    sources: Sequence[dict[str, Any]],
    marks: _Marks | None,
) -> TextRecord:
    """The record of passages that may repeat, with the union of the masks of each, and of marks."""
    found, places = np.unique(digests, return_inverse=True)
    splits = np.zeros(len(found), np.uint8)
    np.bitwise_or.at(splits, places, masks)
    if marks is None:
        return TextRecord(found, splits, complete, tuple(sources))
    kept_marks = marks.settle()
    return TextRecord(found, splits, complete, tuple(sources), kept_marks, marks.bits)
