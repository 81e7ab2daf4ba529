"""Finds the parts of a tokenizer's file that change text, by leaving parts out."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

PREFIXES: dict[str, Any] = {"add_prefix_space": False, "prepend_scheme": "never"}
"""Options of pre-tokenizers that put a space before a text, with harmless values."""
DROPPING = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit")
"""Pre-tokenizers that drop the characters at which they cut."""


class Part(NamedTuple):
    """A part of a file that may change text.

    Attributes:
        name: in words.
        remedy: how a file without its effect differs, in words.
        leave_out: removes its effect from the file's parsed content.
    """

    name: str
    remedy: str
    leave_out: Callable[[Any], None]


def explain(content: bytes, is_exact: Callable[[bytes], bool]) -> str:
    """The faulty parts and their remedies, as the end of a sentence; "" if none is found.

    Args:
        content: of a tokenizer.json, or a SentencePiece model.
        is_exact: whether a file with other content writes text back.
    """
    is_json = content.lstrip()[:1] == b"{"
    parts = list(_parts_of_json(json.loads(content)) if is_json else _parts_of_model(content))
    without = _json_without if is_json else _model_without
    faults = list(parts)
    if not parts or not is_exact(without(content, faults)):
        return ""
    for part in parts:
        fewer = [fault for fault in faults if fault is not part]
        if is_exact(without(content, fewer)):
            faults = fewer
    names = " and ".join(part.name for part in faults)
    remedies = " and ".join(part.remedy for part in faults)
    return f", because of its {names}: a file {remedies} writes all text back"


def _json_without(content: bytes, parts: list[Part]) -> bytes:
    description = json.loads(content)
    for part in parts:
        part.leave_out(description)
    return json.dumps(description).encode()


def _parts_of_json(description: dict[str, Any]) -> Iterator[Part]:
    for path in _leaves(description, ("normalizer",), "normalizers"):
        kind = _at(description, path)["type"]
        yield Part(f"normalizer {kind}", f"without {kind}", _remover(path))
    for path in _leaves(description, ("pre_tokenizer",), "pretokenizers"):
        found = _at(description, path)
        kind = found["type"]
        for option, harmless in PREFIXES.items():
            if found.get(option, harmless) != harmless:
                yield Part(
                    f"pre-tokenizer {kind}, which puts a space before a text",
                    f'with "{option}": {json.dumps(harmless)} there',
                    _setter(path, option, harmless),
                )
        if kind in DROPPING or found.get("behavior") == "Removed":
            name = f"pre-tokenizer {kind}, which drops what it cuts at"
            yield Part(name, f"without {kind}", _remover(path))


def _leaves(description: Any, path: tuple[Any, ...], nested: str) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of a normalizer or pre-tokenizer."""
    found = _at(description, path)
    if not isinstance(found, dict):
        return
    if found.get("type") != "Sequence":
        yield path
        return
    for index in range(len(found[nested])):
        yield from _leaves(description, (*path, nested, index), nested)


def _at(description: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        description = description[step] if isinstance(step, int) else description.get(step)
    return description


def _remover(path: tuple[Any, ...]) -> Callable[[Any], None]:
    """Replaces a part by one that does nothing, so that other paths stay valid."""

    def leave_out(description: Any) -> None:
        nothing = {"type": "Sequence", path[-2]: []} if len(path) > 1 else None
        _at(description, path[:-1])[path[-1]] = nothing

    return leave_out


def _setter(path: tuple[Any, ...], option: str, value: Any) -> Callable[[Any], None]:
    def leave_out(description: Any) -> None:
        _at(description, path)[option] = value

    return leave_out


def _model_without(content: bytes, parts: list[Part]) -> bytes:
    model = _model(content)
    for part in parts:
        part.leave_out(model)
    return bytes(model.SerializeToString())


def _parts_of_model(content: bytes) -> Iterator[Part]:
    spec = _model(content).normalizer_spec
    if spec.precompiled_charsmap:

        def identity(model: Any) -> None:
            model.normalizer_spec.name = "identity"
            model.normalizer_spec.precompiled_charsmap = b""

        yield Part(
            f"normalization rule {spec.name}",
            "trained with --normalization_rule_name=identity",
            identity,
        )
    for option in ("add_dummy_prefix", "remove_extra_whitespaces"):
        if getattr(spec, option):
            yield Part(option, f"trained with --{option}=false", _switch_off(option))


def _switch_off(option: str) -> Callable[[Any], None]:
    def leave_out(model: Any) -> None:
        setattr(model.normalizer_spec, option, False)

    return leave_out


def _model(content: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined]
