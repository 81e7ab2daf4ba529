"""Words and their morphemes, from a file with `word TAB morphemes` on each line.

The morphemes are those of the surface: joined, they are the word. A further tab ends them.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bytelm.core.errors import UserError
from bytelm.data.sources.file_formats import DAMAGE, opened
from bytelm.evaluation.characters import letter_runs


@dataclass(frozen=True)
class Morphemes:
    """The places inside words where morphemes start, in bytes from the start of the word."""

    starts: Mapping[bytes, tuple[int, ...]]

    def find(self, text: bytes) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Where known words of a text have morphemes.

        A word is a run of letters. It is looked up as it is, then in lower case if that has as many
        bytes.

        Returns:
            bool `[bytes]`, where a morpheme starts inside a known word; bool `[bytes]`, all places
            inside known words (not their first bytes); the number of words; of known ones.
        """
        expected, places = np.zeros((2, len(text)), np.bool_)
        words = known = 0
        for first, last in letter_runs(text):
            words += 1
            starts = self._starts(text[first:last])
            if starts is not None:
                known += 1
                places[first + 1 : last] = True
                expected[[first + start for start in starts]] = True
        return expected, places, words, known

    def _starts(self, word: bytes) -> tuple[int, ...] | None:
        found = self.starts.get(word)
        if found is None:
            lower = word.decode().lower().encode()
            found = self.starts.get(lower) if len(lower) == len(word) else None
        return found


def read_morphemes(path: Path, separator: str) -> Morphemes:
    """Reads a file, compressed or not; of a word on several lines, the first counts.

    Raises:
        UserError: for a file that cannot be read or holds no word, and for a line without a tab or
            whose morphemes do not make up the word.
    """
    starts: dict[bytes, tuple[int, ...]] = {}
    for where, line in _lines(path):
        columns = line.split(b"\t")
        if len(columns) < 2 or not columns[0]:
            raise UserError(
                f"{where} is not a word, a tab and its morphemes; write each line as in "
                f"`unhappy<TAB>un{separator}happy`."
            )
        word, parts = columns[0], columns[1].split(separator.encode())
        if b"".join(parts) != word:
            raise UserError(
                f"{where}: the morphemes {_shown(columns[1])}, separated by {separator!r}, do not "
                f"make up the word {_shown(word)}; name what separates them with "
                "boundaries.separator, and give morphemes as they are spelt in the word."
            )
        ends = itertools.accumulate(map(len, parts))
        starts.setdefault(word, tuple(sorted({end for end in ends if 0 < end < len(word)})))
    if not starts:
        raise UserError(f"{path} holds no word; write each as `word<TAB>morphemes`.")
    return Morphemes(starts)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines that are not empty, and where they are."""
    try:
        with opened(path) as (stream, _):
            for number, line in enumerate(stream, start=1):
                if text := line.rstrip(b"\r\n"):
                    yield f"{path}, line {number}", text
    except (OSError, *DAMAGE) as error:
        raise UserError(f"{path} cannot be read, or is damaged: {error}.") from error


def _shown(text: bytes) -> str:
    return repr(text.decode(errors="backslashreplace"))
