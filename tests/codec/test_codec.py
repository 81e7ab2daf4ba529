import io
import math
import zlib
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from bytelm.codec import backend, frequencies
from bytelm.codec import codec as codec_module
from bytelm.codec.codec import Codec
from bytelm.core.errors import UserError
from bytelm.inference.scoring import Scorer, score_documents
from bytelm.models.transformer import TransformerConfig
from tests.models.compiled import split_model

CONTEXT = 16
TEXT = b"It was the best of times, it was the worst of times. " * 4
FILES = {
    "text": TEXT,
    "binary": np.random.default_rng(0).integers(0, 256, 211, np.uint8).tobytes(),
    "bytes that are no symbols": bytes(range(256)),
    "one byte": b"\xff",
    "two bytes": b"\0\n",
    "empty": b"",
}


def built(vocabulary=256):
    return split_model(TransformerConfig(width=8, head_width=8, depth=1, vocabulary=vocabulary))


MODEL = built()


def make(model=MODEL, checkpoint="abc", tokenizer=None):
    graphdef, params = nnx.split(nnx.merge(*model).for_decoding())
    return Codec(
        graphdef, params, checkpoint=checkpoint, step=7, context=CONTEXT, tokenizer=tokenizer
    )


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """Files of a few hundred bytes have several rows, windows and blocks."""
    monkeypatch.setattr(codec_module, "SHORTEST", 20)
    monkeypatch.setattr(codec_module, "LONGEST", 40)


@pytest.fixture(scope="module")
def codec():
    return make()


def compress(codec, data, rows=2, stores=False):
    file = io.BytesIO()
    header = codec.compress(io.BytesIO(data), file, len(data), rows=rows, stores=stores)
    return file.getvalue(), header


def decompress(codec, file):
    back = io.BytesIO()
    codec.decompress(io.BytesIO(file), back, name="x.bytelm")
    return back.getvalue()


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_any_file_comes_back(codec, data):
    file, header = compress(codec, data)
    assert decompress(codec, file) == data
    assert header.totals.bytes == len(data)
    assert len(file) == len(header.to_bytes()) + header.totals.coded_bytes
    assert compress(codec, data)[0] == file


def test_a_block_that_its_code_would_lengthen_is_stored(codec):
    rng, data = np.random.default_rng(0), FILES["binary"] + TEXT
    file, header = compress(codec, data, stores=True)
    blocks = [size for size, _ in header.layout.blocks(len(data))]
    assert header.totals.coded_bytes == len(data) + 4 * (len(blocks) - 1)
    assert file.endswith(data[-blocks[-1] :]) and decompress(codec, file) == data
    # What a model is likely to write is coded, next to a block that is not.
    decided = make((MODEL[0], jax.tree.map(lambda leaf: 3 * leaf, MODEL[1])))
    _, header = compress(decided, bytes(160))
    likely = decided._decode(rng.bytes(80), 80, header, lambda count: None)
    mixed = likely + rng.bytes(80)
    file, header = compress(decided, mixed, stores=True)
    assert 84 < header.totals.coded_bytes < 4 + 160
    assert file.endswith(mixed[80:]) and decompress(decided, file) == mixed


def test_a_file_of_version_1_comes_back(codec):
    file, header = compress(codec, TEXT)
    old = replace(header, version=1).to_bytes() + file[len(header.to_bytes()) :]
    assert decompress(codec, old) == TEXT


def test_windows_blocks_and_rows_take_the_bits_of_the_same_stretches(codec):
    _, header = compress(codec, TEXT)
    layout = header.layout
    blocks = [size for size, _ in layout.blocks(len(TEXT))]
    assert len(blocks) > 1 and layout.rows == 2 and layout.stretch > 2 * CONTEXT
    stretches = layout.divide(TEXT)
    assert b"".join(stretches) == TEXT
    scores = score_documents(
        Scorer(*MODEL), stretches, sequence_length=CONTEXT, stride=layout.stride
    )
    bits = scores.byte_nats.sum() / math.log(2)
    spare = 64 * len(blocks)
    assert bits <= 8 * header.totals.coded_bytes <= bits * 1.001 + spare


def test_rows_change_the_file_and_not_what_comes_back(codec):
    files = {rows: compress(codec, TEXT, rows)[0] for rows in (1, 2)}
    assert files[1] != files[2]
    assert all(decompress(codec, file) == TEXT for file in files.values())


def test_short_files_have_fewer_rows(codec):
    rows = {size: codec.layout(size, 8).rows for size in (0, 39, 40, 79, 80, 160, 999)}
    assert [*rows.values()] == [1, 1, 2, 2, 4, 8, 8]
    for size in (1, 39, 41, 80, 500, 12345):
        layout = codec.layout(size, 8)
        sizes, last = zip(*layout.blocks(size), strict=True)
        assert sum(sizes) == size and layout.stretch <= 40
        assert last == (False,) * (len(last) - 1) + (True,)


def test_a_subword_model_codes_the_tokens_of_any_bytes(trained):
    tokenizer = trained["bpe"]
    codec = make(built(tokenizer.size), tokenizer=tokenizer)
    for data in (TEXT, FILES["binary"], b"\xe2\x96\x81 \xff", b""):
        assert decompress(codec, compress(codec, data)[0]) == data


def changed(file, place, value=None):
    damaged = bytearray(file)
    damaged[place] = damaged[place] ^ 1 if value is None else value
    return bytes(damaged)


def refused(codec, file):
    with pytest.raises(UserError) as error:
        decompress(codec, file)
    message = str(error.value)
    assert message.startswith("x.bytelm ") and message.endswith(".") and "\n" not in message
    return message


def test_what_is_no_compressed_file_is_refused(codec):
    for file in (b"", b"plain text", b"\xb7byte"):
        assert "is no file that `bytelm compress` wrote" in refused(codec, file)


def test_another_version_is_refused(codec):
    file, _ = compress(codec, TEXT)
    assert "version 3 of the format, and this bytelm reads version 1 and 2" in refused(
        codec, changed(file, 7, 3)
    )


def test_a_damaged_or_cut_file_is_refused_before_anything_is_computed(codec):
    file, header = compress(codec, TEXT)
    body = len(header.to_bytes())
    for place in (8, 20, 33, body - 1):
        assert "is damaged in its first bytes" in refused(codec, changed(file, place))
    for place in (body, body + 5, len(file) - 1):
        assert "is damaged; get another copy" in refused(codec, changed(file, place))
    assert "is damaged; get another copy" in refused(codec, file + b"more")
    assert "its last 3 bytes are missing" in refused(codec, file[:-3])
    assert "is damaged in its first bytes" in refused(codec, file[:40])


def test_another_checkpoint_is_refused(codec):
    file, _ = compress(codec, TEXT)
    message = refused(make(checkpoint="def"), file)
    assert "another checkpoint (of step 7, digest abc; this is step 7, def)" in message


def test_another_machine_is_refused(codec, monkeypatch):
    file, _ = compress(codec, TEXT)
    here = backend.fingerprint()
    monkeypatch.setattr(backend, "fingerprint", lambda: {**here, "JAX": "9.9"})
    assert f"JAX is {here['JAX']} there and 9.9 here" in refused(codec, file)


def test_other_probabilities_are_noticed(codec):
    """Parameters of another model, whose digest is the same."""
    other = make((MODEL[0], jax.tree.map(lambda leaf: 1.5 * leaf, MODEL[1])))
    assert "gives other probabilities here" in refused(other, compress(codec, TEXT)[0])


def test_a_file_that_becomes_shorter_is_refused(codec):
    with pytest.raises(UserError, match="became shorter"):
        codec.compress(io.BytesIO(b"abc"), io.BytesIO(), 4)


def test_rows_without_memory_are_refused(codec, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(frequencies, "empty_state", full)
    with pytest.raises(UserError, match="no memory for 1 rows of 16 symbols; compress with fewer"):
        compress(codec, b"abc")


def test_what_the_header_says_of_the_file(codec):
    _, header = compress(codec, TEXT)
    assert (header.checkpoint, header.step, header.totals.crc) == ("abc", 7, zlib.crc32(TEXT))
