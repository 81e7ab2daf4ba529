import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bytelm.core.errors import UserError
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.roles import KERNELS
from bytelm.training.experiment import ExperimentConfig, as_saved, from_saved
from bytelm.training.optimizer import MUON_RMS, AdamW, Muon, OptimizerConfig


def params(seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jax.device_put(rng.normal(size=shape).astype(np.float32))

    return {
        "embedding": {"embedding": normal(9, 8)},
        "stack": {
            "blocks": {"mlp": {"up": {"kernel": normal(3, 8, 12)}}, "norm": {"scale": normal(3, 8)}}
        },
        "head": {"kernel": normal(8, 9)},
    }


ROLES = {
    "embedding": {"embedding": "embedding"},
    "stack": {"blocks": {"mlp": {"up": {"kernel": "matrix"}}, "norm": {"scale": "norm"}}},
    "head": {"kernel": "head"},
}


def kernel(tree):
    return tree["stack"]["blocks"]["mlp"]["up"]["kernel"]


def first_update(config, gradients, steps=10):
    optimizer = config.build(steps, ROLES)
    state = optimizer.init(params())
    return jax.jit(optimizer.update)(gradients, state, params())


def constant(kind=AdamW, **fields):
    return kind(schedule="constant", warmup=0.0, **fields)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        # 100 steps, of which 10 warm up and the last 20 decay, to a quarter of the peak of 2.
        ("cosine", {0: 0.2, 4: 1, 9: 2, 54: 1.25, 99: 0.5, 120: 0.5}),
        ("warmup_stable_decay", {0: 0.2, 4: 1, 9: 2, 79: 2, 89: 1.25, 99: 0.5, 120: 0.5}),
        ("warmup_stable_sqrt_decay", {4: 1, 9: 2, 79: 2, 84: 1.25, 99: 0.5, 120: 0.5}),
        ("constant", {0: 0.2, 4: 1, 9: 2, 99: 2, 120: 2}),
    ],
)
def test_learning_rate_at_the_steps_that_matter(schedule, wanted):
    config = AdamW(learning_rate=2, schedule=schedule, warmup=0.1, decay=0.2, final=0.25)
    rates = config.learning_rates(100)
    assert {step: float(rates(step)) for step in wanted} == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "schedule", ["cosine", "warmup_stable_decay", "warmup_stable_sqrt_decay", "constant"]
)
def test_learning_rate_without_warm_up_starts_near_the_peak(schedule):
    config = AdamW(learning_rate=2, schedule=schedule, warmup=0, decay=0.5)
    assert 1.9 < float(config.learning_rates(10)(0)) <= 2
    assert np.isfinite(float(config.learning_rates(1)(0)))


@pytest.mark.parametrize(
    "schedule",
    ["cosine", "quarter_cosine", "warmup_stable_decay", "warmup_stable_sqrt_decay", "constant"],
)
@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_a_learning_rate_given_to_the_update_is_that_of_the_config(schedule, kind):
    config = kind(learning_rate=0.03, schedule=schedule, warmup=0.2)
    other = dataclasses.replace(config, learning_rate=1.0).build(10, ROLES)
    own, rate = config.build(10, ROLES), np.float32(config.learning_rate)
    wanted, found = own.init(params()), other.init(params())
    assert jax.tree.structure(wanted) == jax.tree.structure(found)
    given = jax.jit(lambda g, s, p, rate: other.update(g, s, p, learning_rate=rate))
    for step in range(10):
        updates, wanted = jax.jit(own.update)(params(step), wanted, params())
        same, found = given(params(step), found, params(), rate)
        # `peak - last` is rounded to float32 in the one, and to float64 before that in the other.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-7), updates, same)


def test_adamw_is_that_of_the_paper():
    config = constant(learning_rate=0.01, clip_norm=None, weight_decay=0.1)
    gradients = params(seed=1)
    updates, _ = first_update(config, gradients)
    # After one step both moments, corrected for their bias, are those of the one gradient.
    direction = kernel(gradients) / (jnp.abs(kernel(gradients)) + config.epsilon)
    wanted = -0.01 * (direction + 0.1 * kernel(params()))
    np.testing.assert_allclose(kernel(updates), wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("decayed", "wanted"),
    [
        (KERNELS, {"stack/kernel", "head"}),
        (("kernel$",), {"stack/kernel", "head"}),
        (("head", "embedding"), {"head", "embedding"}),
        (("norm", "^head"), {"stack/scale", "head"}),
        (("",), {"stack/kernel", "head", "embedding", "stack/scale"}),
        ((), set()),
    ],
)
def test_weight_decay_goes_by_role_or_path(decayed, wanted):
    config = constant(learning_rate=0.5, weight_decay=0.1, decayed=decayed)
    updates, _ = first_update(config, jax.tree.map(jnp.zeros_like, params()))
    by_name = {
        "stack/kernel": kernel,
        "head": lambda tree: tree["head"]["kernel"],
        "embedding": lambda tree: tree["embedding"]["embedding"],
        "stack/scale": lambda tree: tree["stack"]["blocks"]["norm"]["scale"],
    }
    for name, get in by_name.items():
        factor = -0.5 * 0.1 if name in wanted else 0.0
        np.testing.assert_allclose(get(updates), factor * get(params()), rtol=1e-6)


def test_fan_in_scaling_is_of_kernels_alone():
    plain, config = constant(learning_rate=0.01), constant(learning_rate=0.01, fan_in_scaling=True)
    gradients = params(seed=1)
    (wanted, _), (updates, _) = first_update(plain, gradients), first_update(config, gradients)
    np.testing.assert_allclose(kernel(updates), kernel(wanted) * 8**-0.5, rtol=1e-6)
    np.testing.assert_allclose(
        updates["head"]["kernel"], wanted["head"]["kernel"] * 8**-0.5, rtol=1e-6
    )
    jax.tree.map(np.testing.assert_array_equal, updates["embedding"], wanted["embedding"])


def test_learning_rate_multiplier_is_that_of_the_first_match():
    plain = constant(learning_rate=0.01)
    config = constant(learning_rate=0.01, lr_multipliers=(("embedding", 3.0), ("blocks|emb", 0.0)))
    gradients = params(seed=1)
    (wanted, _), (updates, _) = first_update(plain, gradients), first_update(config, gradients)
    np.testing.assert_allclose(
        updates["embedding"]["embedding"], 3 * wanted["embedding"]["embedding"], rtol=1e-6
    )
    np.testing.assert_array_equal(updates["head"]["kernel"], wanted["head"]["kernel"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates["stack"]))


@pytest.mark.parametrize("kind", [AdamW, Muon])
@pytest.mark.parametrize(("clip_norm", "norm"), [(0.5, 0.5), (1e6, None), (None, None)])
def test_the_gradient_is_clipped_by_its_global_norm(kind, clip_norm, norm):
    decays = {"beta1": 0.9} if kind is AdamW else {"beta1": 0.9, "momentum": 0.9}
    config = constant(kind, clip_norm=clip_norm, **decays)
    gradients = params(seed=1)
    optimizer = config.build(10, ROLES)
    state = jax.eval_shape(optimizer.init, params())
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    _, state = jax.jit(optimizer.update)(gradients, state, params())
    moments = [moment for _, moment in optax.tree.get_all_with_path(state, "mu")]
    # The first moment is a tenth of the first gradient.
    seen = 10 * optax.tree.norm(moments)
    assert float(seen) == pytest.approx(norm or float(optax.tree.norm(gradients)), rel=1e-4)


@pytest.fixture(scope="module")
def muon():
    config = constant(Muon, learning_rate=1, weight_decay=0.0, clip_norm=None)
    return first_update(config, params(seed=1))[0]


def test_muon_is_for_the_kernels_of_blocks_alone(muon):
    config = constant(learning_rate=1, weight_decay=0.0, clip_norm=None)
    adamw, _ = first_update(config, params(seed=1))
    for name in ("embedding", "head"):
        jax.tree.map(np.testing.assert_array_equal, muon[name], adamw[name])
    jax.tree.map(
        np.testing.assert_array_equal,
        muon["stack"]["blocks"]["norm"],
        adamw["stack"]["blocks"]["norm"],
    )
    assert (kernel(muon) != kernel(adamw)).all()


def test_muon_makes_each_layer_orthogonal_at_the_size_of_adamw(muon):
    for update in kernel(muon):
        singular = np.linalg.svd(update, compute_uv=False)
        # Five Newton-Schulz steps bring singular values to within 0.5 to 1.5 of their aim.
        assert (singular > 0.5 * MUON_RMS * 12**0.5).all()
        assert (singular < 1.5 * MUON_RMS * 12**0.5).all()


def test_muon_treats_stacked_kernels_as_so_many_matrices(muon):
    config = constant(Muon, learning_rate=1, weight_decay=0.0, clip_norm=None)
    gradients = {str(i): kernel for i, kernel in enumerate(kernel(params(seed=1)))}
    optimizer = config.build(10, dict.fromkeys(gradients, "matrix"))
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(gradients), gradients)
    apart = jnp.stack([updates[str(i)] for i in range(3)])
    np.testing.assert_allclose(kernel(muon), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, r"optimizer\.learning_rate is 0\.0"),
        ({"learning_rate": float("nan")}, r"optimizer\.learning_rate is nan"),
        ({"warmup": 1.5}, r"optimizer\.warmup is 1\.5"),
        ({"decay": -0.1}, r"optimizer\.decay is -0\.1"),
        ({"final": 2.0}, r"optimizer\.final is 2\.0"),
        (
            {"schedule": "warmup_stable_decay", "warmup": 0.6, "decay": 0.6},
            r"warmup 0\.6 and optimizer\.decay 0\.6",
        ),
        ({"momentum": 1.0}, r"optimizer\.momentum is 1\.0"),
        ({"beta2": 1.0}, r"optimizer\.beta2 is 1\.0"),
        ({"clip_norm": 0.0}, r"optimizer\.clip_norm is 0\.0"),
        ({"weight_decay": -1.0}, r"optimizer\.weight_decay is -1\.0"),
        ({"decayed": ("(",)}, r"'\(' is no regular expression"),
        ({"lr_multipliers": (("*", 1.0),)}, r"'\*' is no regular expression"),
    ],
)
def test_a_bad_config_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        Muon(**fields)


def test_a_third_optimiser_is_one_class():
    @dataclasses.dataclass(frozen=True)
    class Lion(OptimizerConfig):
        name: ClassVar[str] = "lion_of_test"
        decay_rate: float = 0.99

        def direction(self, roles):
            return optax.scale_by_lion(b2=self.decay_rate)

    config = ExperimentConfig(TransformerConfig(), optimizer=Lion(learning_rate=0.5, warmup=0.0))
    assert from_saved(as_saved(config)) == config
    optimizer = dataclasses.replace(config.optimizer, weight_decay=0.0, schedule="constant")
    updates, _ = first_update(optimizer, params(seed=1))
    np.testing.assert_allclose(np.abs(kernel(updates)), 0.5, rtol=1e-6)
    del OptimizerConfig.variants["lion_of_test"]
