import jax
import jax.numpy as jnp
import pytest

from bytelm.core.xla import jit_inference, training_options


@jit_inference(static_argnames="power")
def scaled(x, power, *, factor=1.0):
    """Doc."""
    return factor * x**power


def test_a_function_for_inference_takes_and_gives_what_it_did():
    x = jnp.arange(3.0)
    assert scaled(x, 2, factor=2.0).tolist() == [0.0, 2.0, 8.0]
    assert scaled(x, power=3).tolist() == [0.0, 1.0, 8.0]
    assert (scaled.__name__, scaled.__doc__) == ("scaled", "Doc.")


def test_it_is_compiled_once_for_each_static_argument():
    traced = []

    @jit_inference(static_argnums=0)
    def count(power, x):
        traced.append(power)
        return x**power

    for power in (1, 2, 1, 2):
        count(power, jnp.ones(2))
    assert traced == [1, 2]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_xla_is_seen_of_cpus_alone(backend, monkeypatch):
    seen = []
    jit = jax.jit
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(
        jax, "jit", lambda f, compiler_options: seen.append(compiler_options) or jit(f)
    )
    assert jit_inference()(lambda x: x + 1)(jnp.ones(())) == 2
    assert seen == [training_options(jnp.dtype("bfloat16")) if backend == "cpu" else None]
    jit_inference(repeatable=True)(lambda x: x)(jnp.ones(()))
    assert seen[1] == (seen[0] or {"xla_gpu_deterministic_ops": True})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_xla_knows_the_options(dtype):
    if jax.default_backend() != "cpu":
        pytest.skip("options for CPU")
    options = {**training_options(jnp.dtype(dtype)), "xla_gpu_deterministic_ops": True}
    product = jax.jit(lambda x: x @ x.T, compiler_options=options)
    assert product(jnp.ones((4, 8), dtype)).tolist() == [[8.0] * 4] * 4
