import gzip
import lzma
import random

import pytest

from bytelm.core.errors import UserError
from bytelm.evaluation.compressors import compressor_bpb

DOCUMENTS = [b"the same sentence again, " * 40, b"", bytes(range(256)) * 3, b"\x00\xff"]


def test_equals_compressing_the_concatenation_at_once():
    raw = b"".join(DOCUMENTS)
    assert compressor_bpb(iter(DOCUMENTS)) == {
        "gzip": 8 * len(gzip.compress(raw, 9)) / len(raw),
        "xz": 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw),
    }


def test_redundancy_across_documents_counts():
    document = random.Random(0).randbytes(2000)
    once, many = compressor_bpb([document]), compressor_bpb([document] * 8)
    assert once["gzip"] > 8 and once["xz"] > 8
    assert many["gzip"] < 1.5 and many["xz"] < 1.5


@pytest.mark.parametrize("documents", [[], [b"", b""]])
def test_no_bytes_is_an_error(documents):
    with pytest.raises(UserError, match="no bytes"):
        compressor_bpb(documents)
