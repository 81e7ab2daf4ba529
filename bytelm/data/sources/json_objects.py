"""JSON objects in lines: documents of a source, and files whose mistakes are told with the line."""

import json
import re
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

    Keys may be dotted paths of nested objects. A target that is a list counts as its first string.
    """
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON ({error})") from error
    text = _utf8(_nested(record, text_key), text_key)
    script = None if script_key is None else _utf8(_nested(record, script_key), script_key).decode()
    target = None if target_key is None else _target(record, target_key)
    return Document(text, script, target)


def _target(record: object, key: str) -> bytes:
    """The target: a string, or the first string of a list."""
    value = _nested(record, key)
    return _utf8(value[0] if isinstance(value, list) and value else value, key)


def _nested(record: object, key: str) -> Any:
    """The value of a key in a JSON object, or of one such as `page.text` in an object in it."""
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    try:
        return _found(record, key)
    except KeyError:
        raise ValueError(f"no key {key!r}") from None


def _found(record: dict[str, Any], key: str) -> Any:
    if key in record:
        return record[key]
    for dot in re.finditer(r"\.", key):
        inner = record.get(key[: dot.start()])
        if isinstance(inner, dict):
            return _found(inner, key[dot.end() :])
    raise KeyError(key)


def _utf8(value: object, key: str) -> bytes:
    """The string of a key."""
    if not isinstance(value, str):
        raise ValueError(f"the value of {key!r} is not a string")
    try:
        return bytes(value, "utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the value of {key!r} has half a surrogate pair") from error
