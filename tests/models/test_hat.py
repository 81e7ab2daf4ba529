"""HAT's first version against its definition, written word by word without a flat stream."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, OUTPUT_SIZE, START, UNSCORED
from bytelm.models import Batch
from bytelm.models.hat import WORD_END, HATConfig
from bytelm.nn.linear import Embedding
from bytelm.patching.learned import EntropyPatches
from bytelm.patching.segmenter import RulePatches
from tests.models.compiled import split_model

TEXT = b"The owl,  at night\tsaw wonderfully.\n"
LONGEST = 8
CONFIG = HATConfig(
    local_width=16,
    encoder_depth=2,
    decoder_depth=2,
    global_width=32,
    global_depth=2,
    head_width=8,
    segmenter=RulePatches("whitespace_run", longest_patch=LONGEST),
    bytes_per_slot=1.0,
)
WORDS = ["The ", "owl, ", " at ", "night\t", "saw ", "wonderfu", "lly.\n"]


@pytest.fixture(scope="module")
def model():
    return nnx.merge(*split_model(CONFIG))


def row(text):
    symbols = np.concatenate([[START], np.frombuffer(text, np.uint8), [END]]).astype(np.int32)
    return Batch(symbols[None, :-1], symbols[None, 1:], np.ones((1, len(text) + 1), np.int32))


def word_by_word(model, words):
    """For each word, START first: outputs at its first position and bytes, `[1 + n, 258]`."""

    def encode(word):
        x = model.encoder_embedding(word[None], jnp.float32)
        x = jnp.concatenate([model.word_mark[...][None, None], x], axis=1)
        return model.to_backbone(model.encoder_norm(model.encoder(x, None))[:, :1])

    vectors = jnp.concatenate([encode(word) for word in words], axis=1)
    predicted = model.to_decoder(model.backbone_norm(model.backbone(vectors, None)))
    outputs = []
    for index, word in enumerate(words):
        x = model.decoder_embedding(word[None], jnp.float32)
        if index:
            x = jnp.concatenate([predicted[:, index - 1 : index], x], axis=1)
        outputs.append(model.head(model.final_norm(model.decoder(x, None)))[0])
    after = model.final_norm(model.decoder(predicted[:, -1:], None))
    return outputs, model.head(after)[0]


def test_equals_the_definition_word_by_word(model):
    batch = row(TEXT)
    output = jax.jit(lambda: model(batch))()
    words = [np.array([START]), *(np.frombuffer(w.encode(), np.uint8) for w in WORDS)]
    assert b"".join(w.encode() for w in WORDS) == TEXT
    words = [word.astype(np.int32) for word in words]
    outputs, after = jax.jit(lambda: word_by_word(model, words))()

    logits, nats = [], []
    targets = batch.targets[0]
    for index, values in enumerate(outputs):
        of_bytes = values[1:] if index else values
        following = outputs[index + 1][:1] if index + 1 < len(outputs) else after
        logits += [*of_bytes[:-1, :WORD_END], following[0, :WORD_END]]
        # The published product: each byte and the word's end, among bytes and [W].
        log = jax.nn.log_softmax(of_bytes)
        first = jax.nn.log_softmax(following[0, :WORD_END])
        at = len(nats)
        nats += [-log[i, targets[at + i]] for i in range(len(of_bytes) - 1)]
        nats.append(-log[-1, WORD_END] - first[targets[at + len(of_bytes) - 1]])
    np.testing.assert_allclose(output.logits[0], np.stack(logits), atol=2e-5)
    np.testing.assert_allclose(output.nats(batch.targets)[0], np.stack(nats), atol=2e-5)
    assert int(output.patch_starts.sum()) == len(words)


def sees(model, batch, embedding):
    """[t, s]: whether the loss at t has a gradient from the input at s, by an embedding."""
    call, length = Embedding.__call__, batch.ids.shape[1]

    def losses(nudge):
        def nudged(self, ids, dtype):
            x = call(self, ids, dtype)
            direction = jnp.cos(jnp.arange(x.shape[-1]))[None, None, :]
            return x + nudge[None, :, None] * direction if self is embedding else x

        with mock.patch.object(Embedding, "__call__", nudged):
            return model(batch).nats(batch.targets)[0]

    @jax.jit
    def gradients():
        _, pull = jax.vjp(losses, jnp.zeros(length))
        # Not jax.jacobian: XLA:CPU of JAX 0.10 gets gradients of norms under vmap wrong.
        return jax.lax.map(lambda row: pull(row)[0], jnp.eye(length))

    return np.asarray(gradients()) != 0


def test_encoder_and_decoder_see_what_the_paper_says(model):
    batch = row(TEXT)
    lengths = [1, *(len(word) for word in WORDS)]
    word = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.append(np.diff(word) > 0, True)
    t, s = np.arange(len(word))[:, None], np.arange(len(word))[None, :]
    # A word's vector reaches what comes after its end, and only that.
    through_backbone = (word[s] < word[t]) | ((word[s] == word[t]) & ends[t])
    np.testing.assert_array_equal(sees(model, batch, model.encoder_embedding), through_backbone)
    # The decoder spells each word from its own bytes so far.
    np.testing.assert_array_equal(
        sees(model, batch, model.decoder_embedding), (word[s] == word[t]) & (s <= t)
    )


def test_saying_where_words_end_is_counted(model):
    batch = row(TEXT)
    output = jax.jit(lambda: model(batch))()
    said = output.segmentation_nats
    assert (np.asarray(said) > 0).all()
    plain = dataclasses.replace(output, segmentation_nats=None)
    np.testing.assert_allclose(
        output.nats(batch.targets), plain.nats(batch.targets) + said, rtol=1e-6
    )
    unscored = np.full_like(batch.targets, UNSCORED)
    assert (np.asarray(output.nats(unscored)) == 0).all()
    assert output.logits.shape[-1] == OUTPUT_SIZE


def test_long_words_are_split_and_every_byte_scored(model):
    batch = row(b"x" * 30)
    output = jax.jit(lambda: model(batch))()
    assert int(output.patch_starts.sum()) == 1 + -(-30 // LONGEST)
    assert (np.asarray(output.nats(batch.targets)) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"segmenter": RulePatches("words", longest_patch=9)},
            "model.segmenter words does not fit the family hat: it knows a patch's end only at",
        ),
        ({"segmenter": RulePatches("space")}, "does not fit the family hat: it has no longest"),
        ({"segmenter": EntropyPatches()}, "does not fit the family hat: it reads states"),
        ({"local_width": 20}, "model.local_width 20 is no multiple of model.head_width 8"),
        ({"bytes_per_slot": 0.5}, "model.bytes_per_slot is 0.5; it must be at least 1"),
        ({"head_width": 7}, "model.head_width is 7; rotary positions need it even"),
    ],
)
def test_wrong_configs(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)
