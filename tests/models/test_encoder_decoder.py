"""Laws of the encoder-decoder families of `families.ENCODER_DECODERS`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bytelm.core.vocabulary import BYTES, END, PAD, START, UNSCORED
from bytelm.models import Batch
from bytelm.models.contract import DELETED
from bytelm.models.encoder_decoder import VOCABULARY, RatioController
from bytelm.models.t5.mrt5 import MrT5Config
from bytelm.nn.linear import Embedding
from bytelm.nn.mesh import MeshConfig, place_batch, single_device_mesh
from bytelm.training.program import train_program
from tests.models import compiled, golden
from tests.models.families import ENCODER_DECODERS, STEPPED

ROWS, INPUTS, TARGETS = 8, 13, 6


@pytest.fixture(params=ENCODER_DECODERS)
def config(request):
    return ENCODER_DECODERS[request.param]


@functools.cache
def split_model(config):
    """The model's graph, and parameters that are all random."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    return graphdef, jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(0, 0.3, leaf.shape).astype(np.float32)),
        nnx.to_pure_dict(state),
    )


def random_batch(seed=0, inputs=INPUTS, targets=TARGETS):
    """Rows of which the first is full and the others are shorter and shorter."""
    rng = np.random.default_rng(seed)
    of_input = rng.choice(np.frombuffer(b"ab cd\xff\0", np.uint8), (ROWS, inputs)).astype(np.int32)
    of_target = rng.integers(0, BYTES, (ROWS, targets)).astype(np.int32)
    for row in range(ROWS):
        end = inputs - 1 - row
        of_input[row, end], of_input[row, end + 1 :] = END, PAD
        last = targets - 1 - row // 2
        of_target[row, last], of_target[row, last + 1 :] = END, UNSCORED
    scored = of_target != UNSCORED
    ids = np.pad(of_target[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    ids = np.where(scored, ids, PAD)
    return Batch(ids, of_target, scored.astype(np.int32), inputs=of_input)


@functools.cache
def forward(config):
    graphdef, _ = split_model(config)
    return jax.jit(lambda params, batch: nnx.merge(graphdef, params)(batch).logits)


def logits(config, batch):
    return np.asarray(forward(config)(split_model(config)[1], batch))


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)


def test_probabilities_sum_to_one(config):
    probabilities = jax.nn.softmax(logits(config, random_batch()))
    assert probabilities.shape == (ROWS, TARGETS, VOCABULARY)
    close(probabilities.sum(axis=2), 1)


def test_the_decoder_sees_nothing_ahead(config):
    batch = random_batch()
    before = logits(config, batch)
    for place in range(1, TARGETS):
        ids = batch.ids.copy()
        ids[:, place:] = (ids[:, place:] + 7) % BYTES
        after = logits(config, dataclasses.replace(batch, ids=ids))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (after[:, place] != before[:, place]).any()


def test_the_decoder_sees_nothing_ahead_by_gradient(config):
    graphdef, params = split_model(config)
    batch, embed = random_batch(), Embedding.__call__

    @jax.jit
    def influence(nudge):
        def nudged(self, ids, dtype):
            x = embed(self, ids, dtype)
            if ids.shape[1] != TARGETS:  # the encoder's
                return x
            return x + nudge[..., None] * jnp.cos(jnp.arange(x.shape[-1]))[None, None, :]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Embedding, "__call__", nudged)
            return nnx.merge(graphdef, params)(batch).logits.sum(axis=(0, 2))

    by_place = jax.jacrev(influence)(jnp.zeros((ROWS, TARGETS)))  # [output, row, input]
    found = np.abs(by_place).sum(axis=1)
    assert (found[np.triu_indices(TARGETS, 1)] == 0).all()
    assert (found[np.tril_indices(TARGETS)] > 0).all()


def test_every_input_is_seen_unless_it_is_deleted(config):
    batch = random_batch()
    before = logits(config, batch)
    inputs = batch.inputs.copy()
    inputs[0, 0] = ord("c") if inputs[0, 0] != ord("c") else ord("d")
    after = logits(config, dataclasses.replace(batch, inputs=inputs))
    assert (after[0] != before[0]).any()
    np.testing.assert_array_equal(after[1:], before[1:])


@functools.cache
def decoder(config):
    """`start` of a batch's inputs, `extend`, and the parameters for it, the functions compiled."""
    graphdef, params = split_model(config)
    decoding, weights = nnx.split(nnx.merge(graphdef, params).for_decoding())

    @jax.jit
    def start(weights, inputs):
        model = nnx.merge(decoding, weights)
        return model.start(model.encode(model.read(inputs), INPUTS), TARGETS)

    extend = jax.jit(lambda weights, *given: nnx.merge(decoding, weights).extend(*given))
    return start, extend, weights


def test_cached_decoding_is_the_full_forward_at_every_split(config):
    start, extend, weights = decoder(config)
    batch = random_batch()
    wanted, empty = logits(config, batch), start(weights, batch.inputs)
    ones = np.ones(ROWS, np.int32)
    for split in range(TARGETS + 1):
        prefix, state = extend(weights, batch.ids, empty, split * ones)
        close(prefix[:, :split], wanted[:, :split])
        for place in range(split, TARGETS):
            new, state = extend(weights, batch.ids[:, place, None], state, ones)
            close(new[:, 0], wanted[:, place])


def test_rows_of_different_lengths_decode_together(config):
    start, extend, weights = decoder(config)
    batch = random_batch()
    wanted, rows = logits(config, batch), np.arange(ROWS)
    first = (rows % 3 + 1).astype(np.int32)
    prefix, state = extend(weights, batch.ids, start(weights, batch.inputs), first)
    close(prefix[rows, first - 1], wanted[rows, first - 1])
    for step in range(2):
        ids = batch.ids[rows, first + step][:, None]
        new, state = extend(weights, ids, state, np.ones(ROWS, np.int32))
        close(new[:, 0], wanted[rows, first + step])


@pytest.mark.parametrize("config", STEPPED, indirect=True)  # all decoders there are
def test_taking_back_is_never_having_read_on(config):
    start, extend, weights = decoder(config)
    batch, rows = random_batch(), np.arange(ROWS)
    wanted, kept = logits(config, batch), rows % 3
    _, state = extend(weights, batch.ids[:, :2], start(weights, batch.inputs), np.full(ROWS, 2))
    right = batch.ids[:, 2:4]
    ids = np.where(np.arange(2)[None, :] < kept[:, None], right, (right + 1) % 256)
    model = nnx.merge(*split_model(config)).for_decoding()

    @jax.jit
    def verify(ids, state, kept):
        logits, verified = model.verify(ids, state, jnp.full(ROWS, 2))
        return logits, model.keep(verified, kept)

    found, state = verify(ids, state, kept)
    close(found[kept > 0, 0], wanted[kept > 0, 2])
    new, _ = extend(weights, batch.ids[rows, 2 + kept][:, None], state, np.ones(ROWS, np.int32))
    close(new[:, 0], wanted[rows, 2 + kept])


def test_padding_changes_nothing(config):
    batch = random_batch()
    padded = dataclasses.replace(
        batch,
        inputs=np.pad(batch.inputs, ((0, 0), (0, 5)), constant_values=PAD),
        ids=np.pad(batch.ids, ((0, 0), (0, 2)), constant_values=PAD),
        targets=np.pad(batch.targets, ((0, 0), (0, 2)), constant_values=UNSCORED),
        document_ids=np.pad(batch.document_ids, ((0, 0), (0, 2))),
    )
    close(logits(config, padded)[:, :TARGETS], logits(config, batch))


def test_as_many_slots_as_the_longest_row_needs_are_enough(config):
    graphdef, params = split_model(config)
    batch = random_batch()
    reading = jax.jit(lambda params: nnx.merge(graphdef, params).read(batch.inputs))(params)
    length = int(reading.counts.max())
    assert (length < INPUTS) == isinstance(config, MrT5Config)

    @jax.jit
    def run(params, reading):
        model = nnx.merge(graphdef, params)
        return model.decode(batch.ids, model.encode(reading, length))

    close(run(params, reading), logits(config, batch))


def test_rows_without_input_or_targets_are_finite(config):
    batch = jax.tree.map(np.copy, random_batch())
    batch.inputs[0], batch.ids[0] = PAD, PAD
    batch.targets[0], batch.document_ids[0] = UNSCORED, 0
    assert np.isfinite(logits(config, batch)).all()
    state, metrics = trained(config, batch)
    assert np.isfinite(metrics.gradient_norm) and metrics.skipped == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@functools.cache
def program(config, mesh_config, accumulation=1):
    mesh = mesh_config.build() if mesh_config else single_device_mesh()
    return mesh, train_program(config, optax.sgd(0.1), mesh, accumulation)


def trained(config, batch, mesh_config=None, accumulation=1):
    """State and metrics after one step, with noise where a family has it."""
    mesh, steps = program(config, mesh_config, accumulation)
    state = compiled.first_state(steps, compiled.split_model(config)[1])
    keys = np.random.default_rng(4).integers(0, 2**32, (ROWS, 2), dtype=np.uint32)
    batch = dataclasses.replace(batch, keys=keys)
    with jax.set_mesh(mesh):
        return jax.device_get(steps.train(state, place_batch(batch, mesh)))


@pytest.mark.parametrize("config", STEPPED, indirect=True)
def test_sharded_micro_batches_train_as_the_whole_batch_on_one_device(config):
    batch = random_batch()  # rows of different lengths
    alone, wanted = trained(config, batch)
    spread, found = trained(config, batch, MeshConfig(data=2, fsdp=2, tensor=2), accumulation=2)
    before = compiled.split_model(config)[1]
    moved = jax.tree.map(lambda old, new: np.abs(new - old).max(), before, alone.params)
    assert min(jax.tree.leaves(moved)) > 0
    for name in ("params", "controllers"):
        jax.tree.map(close, getattr(spread, name), getattr(alone, name))
    np.testing.assert_allclose(found.sums.nats, wanted.sums.nats, rtol=1e-6)
    for count in ("inputs", "symbols", "patches"):
        assert getattr(found.sums, count) == getattr(wanted.sums, count)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)


def test_no_weight_of_a_step_has_a_weak_type(config):
    # It would lose that in a step, and each step of another type is compiled again.
    state = program(config, None)[1].abstract_state
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))


def test_every_target_is_scored_once(config):
    batch = random_batch()
    _, metrics = trained(config, batch)
    assert metrics.sums.symbols == (batch.targets != UNSCORED).sum()
    assert metrics.sums.bytes == ((batch.targets >= 0) & (batch.targets < BYTES)).sum()
    assert metrics.sums.inputs == (batch.inputs != PAD).sum()


def trajectory(controller, ratios):
    def step(state, ratio):
        state = controller.update(state, DELETED(ratio, 1))
        return state, (state, controller.weight(state))

    return jax.lax.scan(step, controller.init(), jnp.asarray(ratios))[1]


@pytest.mark.parametrize("path", golden.cases("mrt5", lambda file: "cfg.n_trajectories" in file))
def test_golden_mrt5_pi_controller(path):
    case = golden.load(path)
    names = [name.split(".")[0] for name in case.input if name.endswith(".deletion_ratio")]
    assert len(names) == case.cfg["n_trajectories"]
    for name in names:
        given = {part: case.input[f"{name}.{part}"] for part in ("target", "p", "i")}
        controller = RatioController(*(float(value) for value in given.values()))
        states, weights = trajectory(controller, case.input[f"{name}.deletion_ratio"])
        for precision in ("f32", "f64"):
            out = {
                part: case.out[f"{name}.{part}_{precision}"] for part in ("alpha", "p_acc", "i_acc")
            }
            np.testing.assert_allclose(weights, out["alpha"], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(states["proportional"], out["p_acc"], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(states["integral"], out["i_acc"], rtol=1e-5, atol=1e-7)


def test_the_weight_is_never_negative():
    states, weights = trajectory(RatioController(0.3, integral=0.1), np.full(50, 0.9))
    assert (weights == 0).all()
    assert states["integral"][-1] < -2  # and it winds up below, as published
