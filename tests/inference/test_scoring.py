import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, OUTPUT_SIZE, PAD, START, UNSCORED
from bytelm.inference.scoring import Scorer, score_documents
from bytelm.models.contract import Batch, LanguageModel, ModelOutput
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from tests.models.compiled import split_model
from tests.models.families import FAMILIES

AWKWARD = [
    "naïve ▁ 日本語".encode(),
    b"\x00\r\n\r\n\x00",
    b" leading space",
    b"\xff\xfe\x80 lone continuation \xc3",
    b"",
]


class Constant(LanguageModel):
    """The same logits at every position."""

    def __init__(self, logits):
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))

    def __call__(self, batch):
        return ModelOutput(jnp.broadcast_to(self.logits[...], (*batch.ids.shape, OUTPUT_SIZE)))


class Cheat(LanguageModel):
    """Predicts the targets it is given."""

    def __call__(self, batch):
        return ModelOutput(99.0 * jax.nn.one_hot(batch.targets, OUTPUT_SIZE))


def scorer(model):
    return Scorer(*nnx.split(model))


def small_transformer(**changes):
    config = TransformerConfig(width=16, depth=1, head_width=8, tied_head=True, **changes)
    return scorer(config.build(nnx.Rngs(0)))


class Spy:
    """A scorer that records which (context, target) pairs it is asked to score, one nat each."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch: Batch):
        for ids, targets, segments in zip(
            batch.ids, batch.targets, batch.document_ids, strict=True
        ):
            assert ((segments == 1) | ((segments == 0) & (ids == PAD))).all()
            assert (targets[segments == 0] == UNSCORED).all()
            for position in np.flatnonzero(targets != UNSCORED):
                self.seen.append((ids[: position + 1].tolist(), int(targets[position])))
        return (batch.targets != UNSCORED).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.binary(max_size=40), max_size=6),
    length=st.integers(1, 12),
    stride=st.integers(1, 12),
    batch_size=st.integers(1, 4),
)
def test_every_byte_and_every_end_once_and_with_enough_context(
    documents, length, stride, batch_size
):
    stride = min(stride, length)
    spy = Spy()
    scores = score_documents(
        spy, documents, sequence_length=length, stride=stride, batch_size=batch_size
    )
    expected = []
    for text in documents:
        symbols = [START, *text, END]
        expected += [(symbols[:i], symbols[i]) for i in range(1, len(symbols))]
    assert [target for _, target in spy.seen] == [target for _, target in expected]
    for (context, _), (whole, _) in zip(spy.seen, expected, strict=True):
        assert len(context) >= min(len(whole), length - stride + 1)
        assert context == whole[len(whole) - len(context) :]
    assert scores.bytes.tolist() == [len(text) for text in documents]
    assert scores.byte_nats.tolist() == scores.bytes.tolist()
    assert scores.end_nats.tolist() == [1.0] * len(documents)


def test_a_constant_model():
    documents = [bytes(range(256)), *AWKWARD]
    scores = score_documents(scorer(Constant(np.zeros(OUTPUT_SIZE))), documents, sequence_length=16)
    raw = sum(map(len, documents))
    assert scores.bits_per_byte() == pytest.approx(math.log2(257), rel=1e-6)
    with_end = math.log2(257) * (raw + len(documents)) / raw
    assert scores.bits_per_byte(with_end=True) == pytest.approx(with_end, rel=1e-6)
    assert scores.bpb().interval is None
    some = score_documents(scorer(Constant(np.zeros(OUTPUT_SIZE))), [b"ab"] * 10, sequence_length=4)
    assert some.bpb().low == pytest.approx(math.log2(257), rel=1e-6)

    never_ends = np.where(np.arange(OUTPUT_SIZE) == END, -np.inf, 0.0)
    scores = score_documents(scorer(Constant(never_ends)), documents, sequence_length=16)
    assert scores.bits_per_byte() == pytest.approx(8.0, rel=1e-6)
    assert scores.bits_per_byte(with_end=True) == math.inf


def test_a_unigram_model_is_charged_for_the_raw_bytes():
    """Catches a leading space counted twice, dropped bytes and normalised text."""
    logits = np.linspace(-2, 2, OUTPUT_SIZE)
    log_probabilities = logits - np.log(np.exp(logits).sum())
    scores = score_documents(scorer(Constant(logits)), AWKWARD, sequence_length=8, stride=3)
    expected = [-log_probabilities[list(text)].sum() for text in AWKWARD]
    np.testing.assert_allclose(scores.byte_nats, expected, rtol=1e-5)
    np.testing.assert_allclose(scores.end_nats, -log_probabilities[END], rtol=1e-5)
    assert scores.bytes.tolist() == [len(text) for text in AWKWARD]


def test_the_model_cannot_see_targets():
    scores = score_documents(scorer(Cheat()), [b"some text"], sequence_length=16)
    assert scores.bits_per_byte() == pytest.approx(math.log2(257), rel=1e-6)


def test_a_document_does_not_depend_on_the_others_or_on_the_batch_size():
    documents = [b"first, " * 9, b"", b"second \xff" * 5, b"x"]
    model = small_transformer()
    whole = score_documents(model, documents, sequence_length=16, batch_size=3)
    for batch_size in (1, 7):
        other = score_documents(model, iter(documents), sequence_length=16, batch_size=batch_size)
        np.testing.assert_allclose(other.byte_nats, whole.byte_nats, rtol=1e-5)
        np.testing.assert_allclose(other.end_nats, whole.end_nats, rtol=1e-5)
    alone = score_documents(model, documents[2:3], sequence_length=16, batch_size=3)
    np.testing.assert_allclose(alone.byte_nats, whole.byte_nats[2:3], rtol=1e-6)


def test_stride_does_not_matter_to_a_model_that_ignores_distant_context():
    model = small_transformer(window=4)
    documents = [bytes(range(97, 123)) * 2, b"short"]
    whole = score_documents(model, documents, sequence_length=64)
    for stride in (1, 5, 12):
        cut = score_documents(model, documents, sequence_length=16, stride=stride)
        np.testing.assert_allclose(cut.byte_nats, whole.byte_nats, rtol=1e-5)
        np.testing.assert_allclose(cut.end_nats, whole.end_nats, rtol=1e-5)


def test_devices_that_share_rows_and_parameters_give_the_scores_of_one(monkeypatch):
    """Rows of 50 are no multiple of the axis, and three windows no multiple of the devices."""
    monkeypatch.setattr("bytelm.nn.mesh.SMALLEST_SHARDED", 1)
    model = split_model(FAMILIES["spacebyte, sampled, overflow"])
    documents = [b"some words \xff\xfe and more " * 3, b"", b"short"]

    def scores(mesh):
        scorer = Scorer(*model, mesh)
        return scorer, score_documents(scorer, documents, sequence_length=50, batch_size=3)

    (_, whole), (scorer, found) = scores(MeshConfig(data=1)), scores(MeshConfig(fsdp=2, sequence=4))
    np.testing.assert_allclose(found.byte_nats, whole.byte_nats, rtol=1e-5)
    np.testing.assert_allclose(found.end_nats, whole.end_nats, rtol=1e-5)
    assert not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(scorer._params))


def test_long_documents_are_summed_in_float64():
    class Tenth:
        def __call__(self, batch):
            return np.where(batch.targets != UNSCORED, np.float32(0.1), np.float32(0))

    scores = score_documents(Tenth(), [bytes(200_000)], sequence_length=1024, batch_size=16)
    assert scores.byte_nats[0] == pytest.approx(200_000 * float(np.float32(0.1)), rel=1e-12)


def test_documents_are_read_as_they_are_needed():
    read = []

    def documents():
        for number in range(40):
            read.append(number)
            yield b"text"

    ahead = []

    class Watch(Spy):
        def __call__(self, batch):
            ahead.append(len(read) - len(ahead) * 2)
            return super().__call__(batch)

    score_documents(Watch(), documents(), sequence_length=8, batch_size=2)
    assert max(ahead) <= 2


@pytest.mark.parametrize("stride", [0, 9, -1])
def test_a_stride_out_of_range(stride):
    with pytest.raises(UserError, match="stride"):
        score_documents(Spy(), [b"text"], sequence_length=8, stride=stride)


def test_no_bytes_to_divide_by():
    scores = score_documents(Spy(), [b"", b""], sequence_length=8)
    assert scores.end_nats.tolist() == [1.0, 1.0]
    with pytest.raises(UserError, match="no bytes"):
        scores.bits_per_byte()
    assert score_documents(Spy(), [], sequence_length=8).bytes.tolist() == []


def test_all_bytes_are_told_as_they_are_scored():
    told = []
    documents = [*AWKWARD, bytes(range(100))]
    score_documents(Spy(), documents, sequence_length=8, batch_size=2, done=told.append)
    assert sum(told) == sum(map(len, documents)) and len(told) > 10
