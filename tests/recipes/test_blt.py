"""The published sizes."""

from dataclasses import replace

import pytest

from bytelm.models.parameters import count_frozen, count_parameters
from bytelm.training.cost import row_flops
from bytelm.training.presets import load_preset


def with_entropy_model(name):
    config = load_preset(name)
    entropy_model = load_preset("entropy_100m").model
    segmenter = replace(config.model.segmenter, model=entropy_model)
    return replace(config, model=replace(config.model, segmenter=segmenter))


def layer(width, hidden):
    return 4 * width**2 + 3 * width * hidden + 2 * width


def parameters(d, hidden, decoder, width, depth, wide, vectors):
    """The authors' count, with their 260 symbols."""
    cross = 4 * d**2 + 2 * d
    projected = 0 if vectors * d == width else vectors * d * width
    encoder = 260 * d + 6 * 500_002 * d + layer(d, hidden) + cross + vectors * d**2
    decoder = decoder * (layer(d, hidden) + cross) + width * vectors * d + d + 260 * d
    return encoder + projected + depth * layer(width, wide) + decoder


@pytest.mark.parametrize(
    ("name", "total", "published", "rel"),
    [
        ("blt_1b", parameters(1024, 2816, 9, 2048, 25, 5632, 2), 4_533_879_808, 0),
        ("blt_8b", parameters(1280, 3456, 6, 4096, 32, 11008, 4), 10.55e9, 1e-3),
    ],
)
def test_presets_have_the_published_sizes(name, total, published, rel):
    model = with_entropy_model(name).model
    # Their tables have a row more to read, and three more to predict.
    assert count_parameters(model)[0] == total - 4 * model.local_width
    assert total == pytest.approx(published, rel=rel)
    # The entropy model reads 259 symbols and predicts 257, where the authors' has 260 of each.
    assert count_frozen(model) == 99_512_064 - 4 * 768


def test_flops_with_the_entropy_model_in_and_out():
    config = with_entropy_model("blt_1b")
    length = config.data.sequence_length
    per_byte = row_flops(config, patches=length / 4.5) / length
    frozen = config.model.frozen_flops(length) / length
    # 1.006 GFLOP a byte in the authors' count (m_G = 2048, windows full), 0.221 in the entropy
    # model, which they leave out.
    assert frozen == pytest.approx(0.221e9, rel=0.03)
    assert per_byte - frozen == pytest.approx(1.006e9, rel=0.03)
