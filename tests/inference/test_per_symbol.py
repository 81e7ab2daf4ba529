import jax
import numpy as np
import pytest

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END
from bytelm.data.config import DataConfig
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.models.compiled import split_model
from tests.models.families import FAMILIES

TEXTS = [b"ab", "naïve 日".encode(), b"longer than one window of sixteen", b""]
CODED = {"hat"}
"""Families that code the ends of words too, so that logits do not tell all."""


@pytest.fixture(scope="module", params=["transformer", "hat", "spacebyte"])
def model(request):
    config = ExperimentConfig(model=FAMILIES[request.param], data=DataConfig(sequence_length=16))
    return LoadedModel(SavedModel(config, 7, *split_model(FAMILIES[request.param]), {}))


def test_nats_are_those_of_the_whole_documents(model):
    scores = model.score_documents(TEXTS)
    found, with_end = model.nats(TEXTS), model.nats(TEXTS, with_end=True, batch_size=3)
    assert [len(nats) for nats in found] == [len(text) for text in TEXTS]
    np.testing.assert_allclose([nats.sum() for nats in found], scores.byte_nats, rtol=1e-6)
    np.testing.assert_allclose([nats[-1] for nats in with_end], scores.end_nats, rtol=1e-5)
    (alone,) = model.nats(TEXTS[2].decode())
    np.testing.assert_allclose(alone, found[2], rtol=1e-5)


def test_logits_and_states_are_what_nats_come_from(model):
    logits, states = model.logits(TEXTS), model.hidden_states(TEXTS)
    for text, of_text, nats, state in zip(
        TEXTS, logits, model.nats(TEXTS, with_end=True), states, strict=True
    ):
        assert of_text.dtype == state.dtype == np.float32
        targets = np.array([*text, END])
        if model.config.model.family in CODED:
            assert len(of_text) == len(state) == len(targets)
            continue
        logs = np.asarray(jax.nn.log_softmax(of_text))
        np.testing.assert_allclose(-logs[range(len(targets)), targets], nats, rtol=1e-4)
        head = model.params["head"]["kernel"]
        np.testing.assert_allclose(state @ head, of_text, rtol=1e-3, atol=1e-4)


def test_all_continuations_of_one_byte_and_the_end_have_probability_one(model):
    ends = [bytes([byte]) for byte in range(256)]
    logs = model.log_probability("naïve", ends, batch_size=64)
    end = model.log_probability("naïve", b"", with_end=True)
    assert logs.dtype == np.float64 and logs.shape == (256,) and end.shape == (1,)
    if model.config.model.family not in CODED:
        assert np.exp([*logs, *end]).sum() == pytest.approx(1, rel=1e-4)
    together = model.log_probability(["", "a"], ["ab", "b"])
    assert together[0] == pytest.approx(model.log_probability("", "a")[0] + together[1], rel=1e-4)


def test_contexts_and_continuations_that_do_not_match(model):
    with pytest.raises(UserError, match="2 contexts and 1 continuations"):
        model.log_probability(["a", "b"], "c")
    with pytest.raises(UserError, match="symbols are bytes"):
        model.log_probability("a", "b", covers=4)
