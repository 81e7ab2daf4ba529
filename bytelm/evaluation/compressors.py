"""Bits per byte of general-purpose compressors on the same bytes, as a yardstick."""

import lzma
import zlib
from collections.abc import Iterable

from bytelm.core.errors import UserError

_GZIP_CONTAINER = 31
"""zlib's `wbits` for a gzip header and trailer around the widest window."""


def compressor_bpb(documents: Iterable[bytes]) -> dict[str, float]:
    """Compresses the concatenated documents with `gzip -9` and `xz -9e`.

    Reads the documents once and keeps only the compressors' own windows in memory
    (under 1 GB). xz takes about a second per megabyte.

    Args:
      documents: the raw bytes of each document.

    Returns:
      `{"gzip": bpb, "xz": bpb}`: bits of the compressed file, container included, per raw byte.

    Raises:
      UserError: the documents hold no byte.
    """
    gzip = zlib.compressobj(9, wbits=_GZIP_CONTAINER)
    xz = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    raw_bytes = gzip_bytes = xz_bytes = 0
    for document in documents:
        raw_bytes += len(document)
        gzip_bytes += len(gzip.compress(document))
        xz_bytes += len(xz.compress(document))
    if not raw_bytes:
        raise UserError(
            "the documents to compress hold no bytes; choose a source or split that has text"
        )
    gzip_bytes += len(gzip.flush())
    xz_bytes += len(xz.flush())
    return {"gzip": 8 * gzip_bytes / raw_bytes, "xz": 8 * xz_bytes / raw_bytes}
