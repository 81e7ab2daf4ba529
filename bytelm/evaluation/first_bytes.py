"""The first bytes of documents; the last document may be cut."""

from collections.abc import Iterable, Iterator

from bytelm.core.checked import require_positive


class FirstBytes:
    """The documents that hold the first `max_bytes` bytes: whole ones, and the last one cut.

    A cut document has no END, so do not count what is scored as its END.

    Args:
        documents: read as they are needed, and again each time this is read.
        max_bytes: how many bytes; None for all.

    Attributes:
        cut: whether the last document of the last reading was cut.

    Raises:
        UserError: if `max_bytes` is below 1.
    """

    def __init__(self, documents: Iterable[bytes], max_bytes: int | None):
        require_positive("max-bytes", max_bytes)
        self._documents = documents
        self._max_bytes = max_bytes
        self.cut = False

    def __iter__(self) -> Iterator[bytes]:
        self.cut, left = False, self._max_bytes
        for document in self._documents:
            if left is None:
                yield document
                continue
            self.cut = len(document) > left
            yield document[:left]
            left -= len(document)
            if left <= 0:
                return
