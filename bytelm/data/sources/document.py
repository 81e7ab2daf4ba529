"""What a source gives: documents one by one."""

from typing import NamedTuple


class Document(NamedTuple):
    """One document.

    Attributes:
        text: its bytes; it may be empty.
        script: name of its script or language, such as `eng`; None where the source tells none.
        target: bytes that a model shall write for the text; None without a `data.target_key`.
    """

    text: bytes
    script: str | None = None
    target: bytes | None = None
