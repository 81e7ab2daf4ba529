import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.core.vocabulary import PAD
from bytelm.models.t5.blocks import distance_bucket
from tests.models import golden, golden_t5


@pytest.fixture(params=golden.cases("mrt5", golden_t5.is_byt5))
def path(request):
    return request.param


def test_golden_byt5_logits(path):
    case, result = golden.load(path), golden_t5.evaluate(path)
    golden.assert_close(golden_t5.by_t5_id(result.logits), case.out["logits"])
    golden.assert_close(result.loss, case.out["loss"])
    there = golden_t5.batch(case).inputs != PAD
    golden.assert_close(result.states[there], case.out["encoder_last_hidden_state"][there])


def test_golden_byt5_gradients(path):
    golden.assert_gradients(golden.load(path), golden_t5.evaluate(path))


def test_golden_byt5_on_as_many_slots_as_the_longest_row_has(path):
    case = golden.load(path)
    hard = golden_t5.evaluate(path, hard=True)
    golden.assert_close(golden_t5.by_t5_id(hard.logits), case.out["logits"])


def test_golden_byt5_buckets(path):
    case = golden.load(path)
    distances = jnp.asarray(case.out["bucket_distance"])
    for bidirectional, name in ((True, "bidirectional"), (False, "causal")):
        found = distance_bucket(distances, bidirectional=bidirectional)
        np.testing.assert_array_equal(found, case.out[f"bucket_{name}"])
