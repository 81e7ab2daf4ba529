"""HAT's second version against its definition, written word by word without segment sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.models.hat2 import HAT2Config
from bytelm.nn.block import Condition, rotary
from bytelm.patching.learned import GumbelPatches
from bytelm.patching.segmenter import RulePatches
from tests.models.compiled import split_model
from tests.models.test_hat import row, sees

TEXT = b"The owl, at night sawWonders."
WORDS = [b"", b"The", b" owl,", b" at", b" night", b" saw", b"Wonders."]
"""The first stands for START."""
CONFIG = HAT2Config(
    local_width=16,
    encoder_depth=2,
    decoder_depth=2,
    window=None,
    global_width=32,
    global_depth=2,
    head_width=8,
    bytes_per_slot=1.0,
)


@pytest.fixture(scope="module")
def model():
    return nnx.merge(*split_model(CONFIG))


def places():
    """For each symbol, START first, its word."""
    return np.repeat(np.arange(len(WORDS)), [1, *(len(word) for word in WORDS[1:])])


def word_by_word(model, ids):
    """The logits of the definition."""
    word = places()
    x = model.encoder(model.embedding(ids, jnp.float32), None)
    pooling, vectors = model.pooling, []
    for number in range(len(WORDS)):
        states = pooling.norm(x[:, word == number])
        shape = (1, states.shape[1], pooling.heads, pooling.head_width)
        keys = pooling.key(states).reshape(shape)
        keys = rotary(keys, jnp.arange(states.shape[1])[None])
        scores = jnp.einsum("bnhk,hk->bnh", keys, pooling.query[...]) * pooling.head_width**-0.5
        weights = jax.nn.softmax(scores, axis=1)[..., None]
        mixed = (weights * pooling.value(states).reshape(shape)).sum(axis=1)
        vectors.append(pooling.output(mixed.reshape(1, 1, -1)))
    outputs = model.backbone_norm(model.backbone(jnp.concatenate(vectors, axis=1), None))
    before = jnp.concatenate([model.first_word[...][None, None], outputs], axis=1)
    x = model.decoder(x, None, shared=Condition(before, jnp.asarray(word)[None]))
    return model.head(model.final_norm(x))


def test_equals_the_definition_word_by_word(model):
    batch = row(TEXT)
    expected = jax.jit(lambda: word_by_word(model, batch.ids))()
    output = jax.jit(lambda: model(batch))()
    np.testing.assert_allclose(output.logits, expected, atol=2e-5)
    assert int(output.patch_starts.sum()) == len(WORDS)


def test_the_backbone_gives_what_came_before_the_word():
    # Encoder and decoder see one byte, so that all else comes through the backbone.
    model = nnx.merge(*split_model(dataclasses.replace(CONFIG, window=1)))
    batch, word = row(TEXT), places()
    seen = sees(model, batch, model.embedding)
    t, s = np.arange(len(word))[:, None], np.arange(len(word))[None, :]
    np.testing.assert_array_equal(seen, (word[s] < word[t]) | (s == t))


def test_long_words_are_split_and_every_byte_scored():
    model = nnx.merge(*split_model(dataclasses.replace(CONFIG, segmenter=RulePatches("words", 8))))
    batch = row(b"x" * 30)
    output = jax.jit(lambda: model(batch))()
    assert int(output.patch_starts.sum()) == 1 + 4
    assert (np.asarray(output.nats(batch.targets)) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmenter": GumbelPatches()}, "gumbel does not fit the family hat2: it learns from"),
        ({"window": 0}, "model.window is 0; it must be at least 1"),
        ({"global_key_value_heads": 3}, "model.global_key_value_heads 3 does not divide the 4"),
        ({"global_width": 36}, "model.global_width 36 is no multiple of model.head_width 8"),
    ],
)
def test_wrong_configs(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)
