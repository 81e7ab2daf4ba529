from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.core.losses import BatchLoss
from bytelm.core.statistics import Statistic


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Variance(BatchLoss):
    count: jax.Array
    total: jax.Array
    squares: jax.Array
    weight: float = field(default=0.5, metadata={"static": True})
    statistic: Statistic = field(default=Statistic("variance"), metadata={"static": True})

    @classmethod
    def of(cls, x):
        return cls(jnp.asarray(len(x)), x.sum(), jnp.square(x).sum())

    @property
    def value(self):
        return self.squares / self.count - jnp.square(self.total / self.count)


def test_gradients_of_micro_batches_add_up_to_that_of_their_batch():
    x = jnp.array([1.0, 4.0, 2.0, 8.0, 5.0])
    whole = Variance.of(x)

    def parts(x):
        return [Variance.of(part).within(whole).value for part in (x[:2], x[2:])]

    assert parts(x) == [np.var(x)] * 2
    wanted = jax.grad(lambda x: Variance.of(x).value)(x)
    np.testing.assert_allclose(jax.grad(lambda x: sum(parts(x)))(x), wanted, rtol=1e-6)
    # Also where the sums of the whole batch come from the same parameters.
    own = jax.grad(lambda x: Variance.of(x).within(Variance.of(x)).value)(x)
    np.testing.assert_allclose(own, wanted, rtol=1e-6)
