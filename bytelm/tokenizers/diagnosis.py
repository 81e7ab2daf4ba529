"""Finds the parts of a tokenizer's file that change text, by leaving parts out."""

import json
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

from bytelm.tokenizers.cutting import steps

PREFIXES: dict[str, Any] = {"add_prefix_space": False, "prepend_scheme": "never"}
"""Options of pre-tokenizers that put a space before a text, with harmless values."""
DROPPING = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit")
"""Pre-tokenizers that drop the characters at which they cut."""


class Part(NamedTuple):
    """A part of a parsed file that may change text."""

    name: str
    remedy: str
    """How a file without its effect differs, in words."""
    leave_out: Callable[[], None]
    """Removes its effect from the parsed file."""


def explain(content: bytes, is_exact: Callable[[bytes], bool]) -> str:
    """The faulty parts and their remedies, as the end of a sentence; "" if none is found.

    Args:
        content: of a tokenizer.json, or a SentencePiece model.
        is_exact: whether a file with other content writes text back.
    """
    parts, _ = _without(content, ())
    faults = list(range(len(parts)))
    if not parts or not is_exact(_without(content, faults)[1]):
        return ""
    for index in range(len(parts)):
        fewer = [fault for fault in faults if fault != index]
        if is_exact(_without(content, fewer)[1]):
            faults = fewer
    names = " and ".join(parts[fault].name for fault in faults)
    remedies = " and ".join(parts[fault].remedy for fault in faults)
    return f", because of its {names}: a file {remedies} writes all text back"


def _without(content: bytes, faults: Collection[int]) -> tuple[list[Part], bytes]:
    """All parts of a file, and the content without those of the given indices."""
    if content.lstrip()[:1] == b"{":
        description = json.loads(content)
        parts = list(_parts_of_json(description))
    else:
        from sentencepiece import sentencepiece_model_pb2

        description = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined]
        parts = list(_parts_of_model(description.normalizer_spec))
    for fault in faults:
        parts[fault].leave_out()
    if isinstance(description, dict):
        return parts, json.dumps(description).encode()
    return parts, description.SerializeToString()


def _parts_of_json(description: dict[str, Any]) -> Iterator[Part]:
    for step in steps(description.get("normalizer"), "normalizers"):
        kind = step["type"]
        yield Part(f"normalizer {kind}", f"without {kind}", partial(_remove, step, "normalizers"))
    for step in steps(description.get("pre_tokenizer"), "pretokenizers"):
        kind = step["type"]
        for option, harmless in PREFIXES.items():
            if step.get(option, harmless) != harmless:
                yield Part(
                    f"pre-tokenizer {kind}, which puts a space before a text",
                    f'with "{option}": {json.dumps(harmless)} there',
                    partial(step.update, {option: harmless}),
                )
        if kind in DROPPING or step.get("behavior") == "Removed":
            name = f"pre-tokenizer {kind}, which drops what it cuts at"
            yield Part(name, f"without {kind}", partial(_remove, step, "pretokenizers"))


def _remove(step: dict[str, Any], nested: str) -> None:
    """Turns a step into a sequence of no steps."""
    step.clear()
    step.update({"type": "Sequence", nested: []})


def _parts_of_model(spec: Any) -> Iterator[Part]:
    if spec.precompiled_charsmap:
        yield Part(
            f"normalization rule {spec.name}",
            "trained with --normalization_rule_name=identity",
            partial(setattr, spec, "precompiled_charsmap", b""),
        )
    for option in ("add_dummy_prefix", "remove_extra_whitespaces"):
        if getattr(spec, option):
            leave_out = partial(setattr, spec, option, False)
            yield Part(option, f"trained with --{option}=false", leave_out)
