import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.inference.sampling import Sampling, log_probabilities, sample

PROBABILITIES = np.array([[0.4, 0.1, 0.3, 0.2], [0.05, 0.05, 0.8, 0.1]])
LOGITS = np.log(PROBABILITIES) + 3.0


def renormalised(kept):
    kept = np.where(kept, PROBABILITIES, 0.0)
    return kept / kept.sum(axis=-1, keepdims=True)


def probabilities(sampling, logits=LOGITS):
    result = np.exp(jax.jit(log_probabilities)(jnp.asarray(logits), sampling))
    np.testing.assert_allclose(result.sum(axis=-1), 1.0, rtol=1e-6)
    return result


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), [[1, 1, 1, 1], [1, 1, 1, 1]]),
        (Sampling(top_k=1), [[1, 0, 0, 0], [0, 0, 1, 0]]),
        (Sampling(top_k=2), [[1, 0, 1, 0], [0, 0, 1, 1]]),
        (Sampling(top_k=3), [[1, 0, 1, 1], [1, 1, 1, 1]]),
        (Sampling(top_k=9), [[1, 1, 1, 1], [1, 1, 1, 1]]),
        (Sampling(top_p=0.3), [[1, 0, 0, 0], [0, 0, 1, 0]]),
        (Sampling(top_p=0.65), [[1, 0, 1, 0], [0, 0, 1, 0]]),
        (Sampling(top_p=0.85), [[1, 0, 1, 1], [0, 0, 1, 1]]),
        (Sampling(top_p=1.0), [[1, 1, 1, 1], [1, 1, 1, 1]]),
        (Sampling(min_p=0.0), [[1, 1, 1, 1], [1, 1, 1, 1]]),
        (Sampling(min_p=0.3), [[1, 0, 1, 1], [0, 0, 1, 0]]),
        (Sampling(min_p=1.0), [[1, 0, 0, 0], [0, 0, 1, 0]]),
        # top-p works on what top-k left: 0.4 of the remaining 0.7 is not enough for 0.6.
        (Sampling(top_k=2, top_p=0.6), [[1, 0, 1, 0], [0, 0, 1, 0]]),
        (Sampling(top_k=3, min_p=0.6), [[1, 0, 1, 0], [0, 0, 1, 0]]),
    ],
)
def test_filters_keep_what_they_say_and_renormalise(sampling, kept):
    np.testing.assert_allclose(
        probabilities(sampling), renormalised(np.array(kept, bool)), rtol=1e-5, atol=1e-12
    )


def test_temperature():
    for temperature in (0.5, 2.0):
        warm = PROBABILITIES ** (1 / temperature)
        np.testing.assert_allclose(
            probabilities(Sampling(temperature)), warm / warm.sum(-1, keepdims=True), rtol=1e-5
        )
    greedy = probabilities(Sampling(0.0, top_k=3, top_p=0.9, min_p=0.1))
    np.testing.assert_array_equal(greedy, [[1, 0, 0, 0], [0, 0, 1, 0]])
    tied = probabilities(Sampling(0.0), np.zeros((1, 3)))
    np.testing.assert_array_equal(tied, [[1, 0, 0]])


def test_top_p_of_one_keeps_the_improbable():
    logits = np.linspace(0, -60, 257)[None]
    assert (probabilities(Sampling(top_p=1.0), logits) > 0).all()


def test_samples_follow_the_distribution_and_their_own_key():
    keys = jax.random.split(jax.random.key(0), 4000)
    logits = jnp.broadcast_to(jnp.asarray(LOGITS[:1]), (4000, 4))
    drawn = np.asarray(sample(logits, keys, Sampling(top_k=3)))
    counts = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(counts, renormalised([[1, 0, 1, 1]])[0], atol=0.03)
    np.testing.assert_array_equal(sample(logits[:7], keys[:7], Sampling(top_k=3)), drawn[:7])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(-1.0),
        Sampling(float("nan")),
        Sampling(top_k=0),
        Sampling(top_p=0.0),
        Sampling(top_p=1.5),
        Sampling(min_p=-0.1),
        Sampling(min_p=1.1),
    ],
)
def test_values_out_of_range(sampling):
    with pytest.raises(UserError):
        sampling.check()
