"""Subword tokenizers as exact codes of bytes: the tokens of any text decode to the same text.

The libraries take valid UTF-8. Other bytes, and characters that a library would change, are encoded
as tokens of single bytes. The normalizer NFC is left out.
"""

import array
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from sentencepiece import SentencePieceProcessor

from bytelm.core.errors import UserError
from bytelm.core.places import place
from bytelm.core.vocabulary import Vocabulary
from bytelm.tokenizers.cutting import FindCut, apart_in_tokens, of_hugging_face, steps, stretches
from bytelm.tokenizers.diagnosis import explain
from bytelm.tokenizers.unigram import INVALID_BYTE

SPACE = "\u2581"
"""A space, in tokens of tokenizers with byte fallback."""
BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
"""Their name for the token of a byte."""
PROBE = "A\u00e9 e\u0301\ufb01  \uff21\r\n\t\u2581\0 x  ".encode() + b"\xff"
"""Text that normalizers change: capitals, accents both ways, ligatures, wide letters, spaces."""
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
CHARACTERS = {byte: chr(byte) for byte in _PRINTABLE}
CHARACTERS |= {byte: chr(256 + index) for index, byte in enumerate(_OTHERS)}
"""The character for each byte in byte-level tokenizers such as GPT-2's."""
_BYTES = {character: byte for byte, character in CHARACTERS.items()}


class Tokenizer:
    """A Hugging Face tokenizer.json or a SentencePiece model; can be pickled.

    Special tokens in a text are ordinary text, and none are added.

    Attributes:
        path: of the file.
        content: of the file.
        digest: hex digest of the content.
        token_bytes: the bytes of each id; `b""` for ids without text, such as special tokens, which
            `encode` never gives.
        size: number of ids.
        vocabulary: the ids, followed by END, START and PAD.
        byte_counts: int32 `[vocabulary.inputs]`, the length of each id's bytes.
    """

    def __init__(self, path: str, content: bytes) -> None:
        """Reads the content of a file.

        Raises:
            UserError: for a damaged file, one of another kind, and a tokenizer that changes text or
                lacks tokens for single bytes.
        """
        self.path = path
        self.content = content
        self.digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        self._library = _read(path, content)
        self.token_bytes = self._library.token_bytes
        self.size = len(self.token_bytes)
        self.vocabulary = Vocabulary(self.size)
        self.byte_counts = np.zeros(self.vocabulary.inputs, np.int32)
        self.byte_counts[: self.size] = [len(token) for token in self.token_bytes]
        self.encode(PROBE)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[str, bytes]]:
        return Tokenizer, (self.path, self.content)

    def encode(self, text: bytes) -> np.ndarray:
        """The tokens of a document of any bytes, int32 `[N]`; UserError if they change it."""
        ids = self._library.tokens(text)
        written = self.decode(ids)
        if written != text:
            raise self._cannot_write_back(text, written)
        return np.array(ids, np.int32)

    def decode(self, ids: Iterable[int]) -> bytes:
        return self._library.decode(ids)

    def _cannot_write_back(self, text: bytes, written: bytes) -> UserError:
        pairs = enumerate(zip(written, text, strict=False))
        position = next((index for index, (a, b) in pairs if a != b), min(len(written), len(text)))
        sample = text if len(text) < 1000 else text[max(position - 100, 0) :][:200]

        def is_exact(content: bytes) -> bool:
            try:
                library = _read(self.path, content)
                return all(library.decode(library.tokens(each)) == each for each in (PROBE, sample))
            except Exception:  # libraries raise many kinds for a file that they cannot use
                return False

        return UserError(
            f"{self.path} cannot write back {text[position : position + 20]!r} at byte {position} "
            "of a text, so that bits per byte would be wrong"
            f"{explain(self.content, is_exact)}; choose a tokenizer that does not change text, or "
            "make one with `bytelm tokenizer train`."
        )


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a file; UserError if it is missing, and as `Tokenizer`."""
    try:
        content = place(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the tokenizer {path} ({error.strerror}); name a tokenizer.json or a "
            "SentencePiece model, or make one with `bytelm tokenizer train`."
        ) from error
    return Tokenizer(str(path), content)


@dataclass(frozen=True)
class _Library:
    """The tokenizer in its own library."""

    token_bytes: tuple[bytes, ...]
    """See `Tokenizer`."""
    byte_ids: list[int]
    """The token of each of the 256 bytes; -1 if it has none."""
    encode: Callable[[str], list[int]]
    """Gives the tokens of valid UTF-8."""
    apart: re.Pattern[str]
    """Pattern, in one group, of text that is not given to the library."""
    find_cut: FindCut | None
    """Finds a safe cut of a long text; None if none is known."""

    def tokens(self, text: bytes) -> array.array:
        """The tokens of any bytes; they may not decode to the same bytes."""
        ids = array.array("i")
        for index, part in enumerate(self.apart.split(text.decode(errors="surrogateescape"))):
            if index % 2:
                ids.extend(self.byte_ids[byte] for byte in part.encode(errors="surrogateescape"))
            elif part:
                # One by one, to bound memory and to notice Ctrl-C in between.
                for stretch in stretches(part, self.find_cut):
                    ids.extend(self.encode(stretch))
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        return b"".join([self.token_bytes[number] for number in ids])


def _read(path: str, content: bytes) -> _Library:
    try:
        if content.lstrip()[:1] == b"{":
            description = _without_nfc(json.loads(content))
            json_library = tokenizers.Tokenizer.from_buffer(json.dumps(description).encode())
            found = _hugging_face(path, json_library, description)
        else:
            found = _sentencepiece(SentencePieceProcessor.from_proto(content))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, or neither a Hugging Face tokenizer.json nor a SentencePiece "
            "model; make one with `bytelm tokenizer train`."
        ) from error
    if -1 in found.byte_ids:
        raise UserError(
            f"{path} has no token for the byte 0x{found.byte_ids.index(-1):02X}, so that it cannot "
            "write any bytes; choose a byte-level tokenizer or one with byte fallback."
        )
    return found


def _without_nfc(description: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without the normalizer NFC, which Qwen's have.

    Text in NFC has the same tokens without it, and other text is then encoded as it is.
    """
    kept = [s for s in steps(description.get("normalizer"), "normalizers") if s["type"] != "NFC"]
    if not kept:
        return {**description, "normalizer": None}
    normalizer = kept[0] if len(kept) == 1 else {"type": "Sequence", "normalizers": kept}
    return {**description, "normalizer": normalizer}


def _hugging_face(
    path: str, library: tokenizers.Tokenizer, description: dict[str, Any]
) -> _Library:
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    vocabulary = library.get_vocab(with_added_tokens=False)
    cutting = steps(description.get("pre_tokenizer"), "pretokenizers")
    decoding = steps(description.get("decoder"), "decoders")
    byte_level = any(step["type"] == "ByteLevel" for step in cutting + decoding)
    kind = type(library.model).__name__
    if not byte_level and not description["model"].get("byte_fallback"):
        raise UserError(
            f"{path} is a {kind} tokenizer that is neither byte-level nor has byte fallback, so "
            "that it cannot write any bytes; choose one that does, or make one with `bytelm "
            "tokenizer train`."
        )
    names = CHARACTERS if byte_level else {byte: f"<0x{byte:02X}>" for byte in range(256)}
    added = library.get_added_tokens_decoder()
    token_bytes = [b""] * (max([*vocabulary.values(), *added]) + 1)
    for token, number in vocabulary.items():
        token_bytes[number] = _of_characters(token) if byte_level else _with_spaces(token)
    for number, extra in added.items():
        plain = extra.content.encode() if byte_level else _with_spaces(extra.content)
        token_bytes[number] = b"" if extra.special else plain
    apart = [] if byte_level else [SPACE]
    if not byte_level and kind == "Unigram":
        # Unigram would match the names of these tokens in a text.
        apart += [
            token
            for token, number in vocabulary.items()
            if BYTE_TOKEN.fullmatch(token) or not token_bytes[number]
        ]
    return _Library(
        token_bytes=tuple(token_bytes),
        byte_ids=[vocabulary.get(names[byte], -1) for byte in range(256)],
        # The only call that skips offsets, which would take a third of the time.
        encode=lambda text: library.encode_batch_fast([text], add_special_tokens=False)[0].ids,
        apart=_apart(apart),
        find_cut=of_hugging_face(description),
    )


def _sentencepiece(processor: SentencePieceProcessor) -> _Library:
    token_bytes, byte_ids = [], [-1] * 256
    for number in range(len(processor)):
        piece = processor.id_to_piece(number)
        if processor.is_byte(number):
            byte_ids[_with_spaces(piece)[0]] = number
        unwritten = processor.is_control(number) or processor.is_unknown(number)
        token_bytes.append(b"" if unwritten else _with_spaces(piece))
    return _Library(
        token_bytes=tuple(token_bytes),
        byte_ids=byte_ids,
        encode=processor.encode,
        apart=_apart([SPACE]),
        find_cut=apart_in_tokens(map(processor.id_to_piece, range(len(processor)))),
    )


def _of_characters(token: str) -> bytes:
    """The bytes of a byte-level token; none for a special token with other characters."""
    return bytes(_BYTES[character] for character in token) if _BYTES.keys() >= {*token} else b""


def _with_spaces(token: str) -> bytes:
    """The bytes of a token of a tokenizer with byte fallback."""
    byte = BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


def _apart(texts: list[str]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join([INVALID_BYTE.pattern, *map(re.escape, texts)])})")
