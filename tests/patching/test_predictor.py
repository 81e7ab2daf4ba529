import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import binom

from bytelm.patching.predictor import (
    BoundaryPredictor,
    band_loss,
    binomial_prior,
    boundary_cross_entropy,
    entropy_spikes,
    relaxed_bernoulli,
    uniforms,
)
from tests.models import golden
from tests.models.golden_hourglass import predictor_parameters

binomial_prior = jax.jit(binomial_prior)
boundary_cross_entropy = jax.jit(boundary_cross_entropy, static_argnames="twice")
entropy_spikes = jax.jit(entropy_spikes, static_argnums=2)
relaxed_bernoulli = jax.jit(relaxed_bernoulli)
uniforms = jax.jit(uniforms)


def golden_case(folder, name):
    return pytest.fixture(params=golden.cases(folder, lambda file: name in file), scope="module")(
        lambda request: golden.load(request.param)
    )


predictor = golden_case("dynamic_pooling", "in.cotangent_hard")
spikes = golden_case("dynamic_pooling", "in.entropy")
bands = golden_case("flexitokens", "in.b0.preds")


def test_golden_gumbel_predictor(predictor):
    cfg, inputs, out = predictor.cfg, predictor.input, predictor.out
    width, hidden = cfg["d_model"], cfg["d_inner"]
    relu = cfg["activation_function"] == "relu"
    graphdef = nnx.graphdef(
        nnx.eval_shape(
            lambda: BoundaryPredictor(width, hidden, rate=0.5, relu=relu, rngs=nnx.Rngs(0))
        )
    )
    everywhere = np.ones(inputs["uniforms"].shape, bool)

    def run(weights, hidden):
        parameters = predictor_parameters(weights)["segmenter"]["predictor"]
        logits = nnx.merge(graphdef, parameters)(hidden.swapaxes(0, 1))
        hard, b = relaxed_bernoulli(logits, inputs["uniforms"], cfg["temp"])
        prior = binomial_prior(b, everywhere, cfg["prior"])
        return prior + (b * inputs["cotangent_hard"]).sum(), (logits, hard, b, prior)

    run = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))
    (of_weights, of_hidden), (logits, hard, b, prior) = run(predictor.param, inputs["hidden"])
    golden.assert_close(logits, out["logits"])
    np.testing.assert_array_equal(hard, out["hard"] > 0)
    golden.assert_close(b, out["hard"], atol=1e-6)
    golden.assert_close(prior, out["binomial_loss_sampled"])
    for name, wanted in predictor.grad.items():
        if name != "given_boundaries":
            got = of_hidden if name == "hidden" else of_weights[name]
            golden.assert_close(got, wanted, atol=golden.GRADIENTS * np.abs(wanted).max())


def test_golden_binomial_prior(predictor):
    given = predictor.input["given_boundaries"]
    everywhere = np.ones(given.shape, bool)
    both = jax.jit(jax.value_and_grad(binomial_prior))
    loss, gradient = both(given, everywhere, predictor.cfg["prior"])
    golden.assert_close(loss, predictor.out["binomial_loss_given"])
    wanted = predictor.grad["given_boundaries"]
    golden.assert_close(gradient, wanted, atol=golden.GRADIENTS * np.abs(wanted).max())
    for row, alone in zip(given, predictor.out["binomial_loss_given_per_sequence"], strict=True):
        golden.assert_close(
            binomial_prior(row[None], everywhere[:1], predictor.cfg["prior"]), alone
        )


def test_golden_entropy_spikes(spikes):
    entropy = spikes.input["entropy"].T
    everywhere = np.ones(entropy.shape, bool)
    for name, wanted in spikes.out.items():
        if name.startswith("spikes_"):
            found = entropy_spikes(entropy, everywhere, int(name.removeprefix("spikes_")))
            np.testing.assert_array_equal(found, wanted.T)


def test_golden_boundary_cross_entropy(spikes):
    p = spikes.input["probs"]
    logits = np.log(p) - np.log1p(-p)
    targets, everywhere = spikes.out["spikes_2"].T, np.ones(p.shape, bool)

    @jax.jit
    def loss(p):
        return boundary_cross_entropy(jnp.log(p) - jnp.log1p(-p), targets, everywhere, twice=True)

    golden.assert_close(
        boundary_cross_entropy(logits, targets, everywhere, twice=False),
        spikes.out["bce_if_applied_to_logits"],
    )
    golden.assert_close(loss(p), spikes.out["bce_code_on_probs"])
    wanted = spikes.grad["probs_bce_code"]
    golden.assert_close(
        jax.jit(jax.grad(loss))(p), wanted, atol=golden.GRADIENTS * np.abs(wanted).max()
    )


def test_golden_band_loss(bands):
    for number in range(bands.cfg["n_batches"]):
        given, out, grad = (
            {
                name.removeprefix(f"b{number}."): value
                for name, value in group.items()
                if name.startswith(f"b{number}.")
            }
            for group in (bands.input, bands.out, bands.grad)
        )
        preds, mask = given["preds"].astype(np.float32), given["attention_mask"] > 0
        everywhere = np.ones(mask.shape, bool)
        least = given["alpha"] - given["lambda"] * given["sigma"]
        golden.assert_close(least, out["beta"], atol=1e-6)
        scripts = np.broadcast_to(np.arange(len(preds))[:, None], preds.shape)

        def band(preds, counted, scripts=scripts, alpha=given["alpha"], least=least):
            return band_loss(preds, counted, scripts, jnp.asarray(alpha), jnp.asarray(least))

        loss, gradient = jax.jit(jax.value_and_grad(band))(preds, everywhere)
        band = jax.jit(band)
        golden.assert_close(loss, out["band_code_lm"], atol=1e-6)
        golden.assert_close(gradient, grad["band_code_lm.preds"], atol=1e-7)
        # With a mask their code sets all rates against all bounds; a mean of rows was meant, which
        # ours weights by their lengths.
        mean = np.average(out["band_per_sequence_masked"], weights=mask.sum(axis=1))
        golden.assert_close(band(preds, mask), mean, atol=1e-6)
        for row in range(len(preds)):
            alone = band(preds, mask & (np.arange(len(preds)) == row)[:, None])
            golden.assert_close(alone, out["band_per_sequence_masked"][row], atol=1e-6)
        prior = binomial_prior(preds, everywhere, jnp.asarray(given["alpha"]))
        golden.assert_close(prior, out["binomial_code_lm"])


def test_a_row_of_two_scripts_is_held_to_both_bands():
    b = jnp.array([[1.0, 0, 0, 0, 1, 1, 0, 0, 0, 0]])
    scripts = np.array([[0] * 4 + [1] * 4 + [-1] * 2])
    counted = scripts >= 0
    loss = band_loss(b, counted, scripts, jnp.array([0.3, 0.4]), jnp.array([0.26, 0.2]))
    # Half of the row is 0.01 below its band, half 0.1 above.
    np.testing.assert_allclose(loss, 0.5 * 0.01 + 0.5 * 0.1, rtol=1e-5)


@pytest.mark.parametrize("loss", [band_loss, binomial_prior])
def test_a_batch_costs_what_its_rows_cost_apart(loss):
    counted = np.arange(60)[None, :] < np.array([[8], [60]])
    b = np.where(np.arange(60)[None, :] < 5, 1.0, 0.0).repeat(2, axis=0).astype(np.float32)
    scripts = np.zeros((2, 60), int)
    bands = (scripts, jnp.array([0.3]), jnp.array([0.2]))
    options = bands if loss is band_loss else (0.3,)

    def total(rows):
        given = [option[rows] if option is scripts else option for option in options]
        return loss(b[rows], counted[rows], *given) * counted[rows].sum()

    np.testing.assert_allclose(total(slice(0, 2)), total([0]) + total([1]), rtol=1e-5)


def test_the_prior_is_the_binomial_distribution_and_ignores_what_does_not_count():
    b = np.zeros((3, 12), np.float32)
    b[0, :4], b[1, [0, 11]] = 1, 1
    counted = np.ones((3, 12), bool)
    counted[0, 8:], counted[2] = False, False
    wanted = -(binom.logpmf(4, 8, 0.3) + binom.logpmf(2, 12, 0.3)) / 20
    np.testing.assert_allclose(binomial_prior(b, counted, 0.3), wanted, rtol=1e-5)


def test_a_spike_is_not_compared_across_what_does_not_count():
    entropy = np.array([[3.0, 1.0, 2.0, 0.5, 0.4, 0.6]])
    counted = np.array([[True, True, True, False, True, True]])
    assert entropy_spikes(entropy, counted, 2).tolist() == [[1, 0, 0, 0, 1, 1]]


def test_samples_have_the_predicted_probability_and_none_without_noise():
    p = np.array([[0.1, 0.3, 0.5, 0.8]])
    logits = jnp.asarray(np.log(p / (1 - p)))
    keys = np.random.default_rng(0).integers(0, 2**32, (4000, 2), dtype=np.uint32)
    noise = uniforms(keys, np.ones((4000, 4), int), np.broadcast_to(np.arange(4), (4000, 4)))
    hard, _ = relaxed_bernoulli(jnp.repeat(logits, 4000, axis=0), noise, 0.5)
    np.testing.assert_allclose(hard.mean(axis=0), p[0], atol=0.03)
    assert relaxed_bernoulli(logits, None, 0.5)[0].tolist() == [[False, False, False, True]]


def test_a_uniform_number_depends_on_its_key_document_and_position_alone():
    keys = np.array([[1, 2], [3, 4]], np.uint32)
    positions = np.broadcast_to(np.arange(9), (2, 9))
    long = np.asarray(uniforms(keys, np.ones((2, 9), int), positions))
    later = np.asarray(uniforms(keys[1:], np.ones((1, 2), int), np.array([[5, 6]])))
    np.testing.assert_array_equal(later[0], long[1, 5:7])
    other = np.asarray(uniforms(keys, np.full((2, 9), 2), positions))
    assert len({*long.ravel().tolist(), *other.ravel().tolist()}) == 2 * long.size
