"""JSON objects in lines: documents of a source, and files whose mistakes are told with the line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytelm.core.errors import UserError
from bytelm.data.sources.file_formats import DAMAGE, json_lines, opened
from bytelm.data.sources.reader import Document


@dataclass(frozen=True)
class JsonObject:
    """The object of one line; `where` names the file and the line. A null counts as missing."""

    where: str
    fields: dict[str, Any]

    def __contains__(self, key: str) -> bool:
        return self.fields.get(key) is not None

    def text(self, key: str) -> str:
        """A string; raises UserError if the key is missing, or has another value."""
        return self._string(key, self._value(key))

    def texts(self, key: str) -> list[str]:
        """A string, or a list of strings; raises as `text` does, and for an empty list."""
        value = self._value(key)
        values = value if isinstance(value, list) else [value]
        if not values:
            raise UserError(f"{self.where}: the list {key!r} is empty.")
        return [self._string(key, each) for each in values]

    def _value(self, key: str) -> Any:
        if key not in self:
            raise UserError(f"{self.where} has no {key!r}; it has {', '.join(self.fields)}.")
        return self.fields[key]

    def _string(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise UserError(f"{self.where}: the value of {key!r} is not a string.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{self.where}: the value of {key!r} is not text: {error}.") from error
        return value


def json_objects(path: Path) -> Iterator[JsonObject]:
    """The objects of a file, compressed or not; lines that are blank are left out.

    Raises:
        UserError: for a file that cannot be read or is damaged, and a line that is no JSON object.
    """
    try:
        with opened(path) as (stream, _):
            for number, line in json_lines(path, stream):
                yield _parsed(line, f"{path}, line {number}")
    except (OSError, *DAMAGE) as error:
        raise UserError(f"{path} cannot be read, or is damaged: {error}.") from error


def _parsed(line: bytes, where: str) -> JsonObject:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not a JSON object: {error}.") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where} is not a JSON object, but another value.")
    return JsonObject(where, fields)


def json_document(
    line: bytes, text_key: str, script_key: str | None = None, target_key: str | None = None
) -> Document:
    """The document in a JSON line, as UTF-8; ValueError if the line is bad.

    A target that is a list counts as its first string.
    """
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON ({error})") from error
    text = _utf8(record, text_key)
    script = None if script_key is None else _utf8(record, script_key).decode()
    target = None if target_key is None else _target(record, target_key)
    return Document(text, script, target)


def _target(record: object, key: str) -> bytes:
    """The target: a string, or the first string of a list."""
    if isinstance(record, dict) and isinstance(record.get(key), list) and record[key]:
        return _utf8({key: record[key][0]}, key)
    return _utf8(record, key)


def _utf8(record: object, key: str) -> bytes:
    """The string of a key in a JSON object."""
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"no key {key!r}")
    if not isinstance(record[key], str):
        raise ValueError(f"the value of {key!r} is not a string")
    try:
        return bytes(record[key], "utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the value of {key!r} has half a surrogate pair") from error
