"""Parallel text: sentences that are translations of each other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bytelm.core.errors import UserError
from bytelm.core.terminal_text import number_of
from bytelm.data.sources.file_formats import CHUNK, DAMAGE, UTF8_MARK, check_json_lines, opened
from bytelm.data.sources.local_files import find_files


class _Document(NamedTuple):
    """One line of a file: a document in one language."""

    id: str
    lang: str
    text: str


def read_parallel(files: str | Sequence[str]) -> dict[str, list[bytes]]:
    """Sentences in several languages, from JSON lines with the keys `id`, `lang` and `text`.

    Documents with the same id are translations of each other, line by line.

    Args:
        files: globs of .jsonl files, compressed or not; one may be given alone. A document and its
            translations may be in different files.

    Returns:
        by language code, the sentences, in the same order in all languages.

    Raises:
        UserError: for files that cannot be read, and for languages that are not aligned.
    """
    files = [files] if isinstance(files, str) else files
    if not files:
        raise UserError("there are no files of parallel text; name at least one.")
    documents: dict[str, dict[str, list[bytes]]] = {}
    for path in find_files(files, "the parallel text"):
        for name, language, text in _read(path):
            translations = documents.setdefault(language, {})
            if name in translations:
                raise UserError(f"document {name} appears twice in {language}; take one out.")
            translations[name] = text.encode().removesuffix(b"\n").split(b"\n")
    if not documents:
        raise UserError(f"{' '.join(files)}: the files hold no document.")
    return _aligned(documents)


def _aligned(documents: Mapping[str, Mapping[str, Sequence[bytes]]]) -> dict[str, list[bytes]]:
    """The lines of each language's documents, in the order of the first language's."""
    first, expected = next(iter(documents.items()))
    for language, found in documents.items():
        for name in sorted(expected.keys() ^ found.keys()):
            there, missing = (first, language) if name in expected else (language, first)
            raise UserError(
                f"document {name} exists in {there} and not in {missing}; parallel text needs "
                "each document in every language."
            )
        for name, lines in found.items():
            if len(lines) != len(expected[name]):
                raise UserError(
                    f"document {name} has {number_of(len(lines), 'line')} in {language} and "
                    f"{len(expected[name])} in {first}; each line must be translated by one line."
                )
            if b"" in lines:
                raise UserError(
                    f"document {name} in {language}, line {lines.index(b'') + 1} is empty; give "
                    "the sentence that the other languages have there."
                )
    return {
        language: [line for name in expected for line in found[name]]
        for language, found in documents.items()
    }


def _read(path: Path) -> Iterator[_Document]:
    """The documents of a file, one a line."""
    try:
        with opened(path) as (stream, _):
            head = stream.peek(CHUNK)
            check_json_lines(path, head)
            stream.read(len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0)
            for number, line in enumerate(stream, start=1):
                if not line.isspace():
                    yield _document(line, f"{path}, line {number}")
    except (OSError, *DAMAGE) as error:
        raise UserError(f"{path} cannot be read, or is damaged: {error}.") from error


def _document(line: bytes, where: str) -> _Document:
    try:
        record = json.loads(line)
        for key in _Document._fields:
            if not isinstance(record[key], str):
                raise UserError(f"{where}: the value of {key!r} is not a string.")
            record[key].encode()
        return _Document(*(record[key] for key in _Document._fields))
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} is not a JSON object with the strings id, lang and text: {error}."
        ) from error
