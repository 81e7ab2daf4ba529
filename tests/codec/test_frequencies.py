import jax
import jax.numpy as jnp
import numpy as np

from bytelm.codec.frequencies import TOTAL, free_frequencies


def test_every_symbol_has_its_share_of_the_total():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 6, (50, 257)), jnp.float32)
    logits = logits.at[0].set(0.0).at[1, 3].set(200.0).at[2, 4].set(-jnp.inf)
    frequencies = np.asarray(free_frequencies(logits), np.float64) + 1
    assert (frequencies == np.round(frequencies)).all() and (frequencies >= 1).all()
    assert (frequencies.sum(axis=1) == TOTAL).all()
    nats = -np.asarray(jax.nn.log_softmax(logits), np.float64)
    assert (np.log(TOTAL / frequencies) <= nats + 257 / TOTAL + 1e-4).all()
