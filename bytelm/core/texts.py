"""The kinds of text that the Python API accepts."""

from collections.abc import Iterable, Iterator

from bytelm.core.errors import UserError

Text = bytes | bytearray | memoryview | str
"""Bytes as they are; a str stands for its UTF-8 bytes (lone surrogates: the bytes they escape)."""
Texts = Text | Iterable[Text]
"""One text or several; a single `Text` is never split into its characters."""


def each_text(texts: Texts) -> Iterator[bytes]:
    """The bytes of each text.

    Raises:
        UserError: for a value that is not a text.
    """
    if isinstance(texts, Text) or not isinstance(texts, Iterable):
        texts = [texts]
    return map(text_bytes, texts)


def text_bytes(text: Text) -> bytes:
    """The bytes of one text; raises as `each_text` does."""
    if not isinstance(text, Text):
        raise UserError(f"{text!r:.60} is not a text; give a str or bytes.")
    if not isinstance(text, str):
        return bytes(text)
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has {text[error.start]!r} at {error.start}, half of a character, which has "
            "no UTF-8; give bytes, or a text without it."
        ) from None
