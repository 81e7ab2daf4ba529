"""The proof: a file takes the bits that the model's scores say, in every family."""

import io
import math

import numpy as np
import pytest

from bytelm.codec import codec as codec_module
from bytelm.codec.codec import Codec
from bytelm.core.vocabulary import START
from bytelm.models.contract import Batch
from tests.models.compiled import LENGTH, ROWS, for_decoding, forward, split_model
from tests.models.families import FAMILIES, TRAINED

ENTROPY_MODEL = "blt, entropy model, first layer, unbounded patches, published block"
OVERFLOW = "spacebyte, published block, fixed patches, overflow"
STRETCH = LENGTH - 1
"""With START it fills a window."""


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    monkeypatch.setattr(codec_module, "SHORTEST", STRETCH - 1)


@pytest.mark.parametrize("name", [*TRAINED, ENTROPY_MODEL, OVERFLOW])
def test_a_file_takes_the_bits_of_its_score_and_comes_back(name):
    config = FAMILIES[name]
    data = np.random.default_rng(0).integers(0, 256, ROWS * STRETCH - 3, np.uint8).tobytes()
    graphdef, params = for_decoding(config)
    codec = Codec(graphdef, params, checkpoint="", step=1, context=LENGTH)
    file, back = io.BytesIO(), io.BytesIO()
    header = codec.compress(io.BytesIO(data), file, len(data), rows=ROWS, stores=False)
    file.seek(0)
    codec.decompress(file, back)
    assert back.getvalue() == data

    targets = np.frombuffer(data + b"\0\0\0", np.uint8).reshape(ROWS, STRETCH).astype(np.int32)
    ids = np.pad(targets, ((0, 0), (1, 0)), constant_values=START)
    output = forward(config)(split_model(config)[1], Batch(ids, ids, np.ones_like(ids)))
    logits = np.asarray(output.logits, np.float64)[:, :STRETCH]
    chosen = np.take_along_axis(logits, targets[:, :, None], axis=2)[:, :, 0]
    nats = np.logaddexp.reduce(logits, axis=2) - chosen  # [ROWS, STRETCH]
    bits = nats.reshape(-1)[: len(data)].sum() / math.log(2)
    assert abs(8 * header.totals.coded_bytes - bits) <= 64 + 0.001 * bits
    if output.segmentation_nats is not None:  # the score also has what the bytes imply
        assert (np.asarray(output.segmentation_nats) >= 0).all()
