import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from bytelm.core.statistics import BPB, BPB_WITH_END
from bytelm.core.vocabulary import BYTES, END, UNSCORED
from bytelm.data.corpus.packing import Rows, pack
from bytelm.models import Batch
from bytelm.models.parameters import roles_of
from bytelm.models.transformer import TransformerConfig
from bytelm.nn import mesh
from bytelm.nn.mesh import MeshConfig, place_batch
from bytelm.patching.marks import PatchMarks
from bytelm.training import step
from bytelm.training.optimizer import Muon
from bytelm.training.program import train_program
from bytelm.training.step import StepSetup, _of_levels, eval_step, train_step
from tests.models.compiled import random_rows, split_model

CONFIG = TransformerConfig(
    width=32, depth=1, head_width=8, mlp_width=48, ngrams=(2, 3), ngram_rows=64
)
ONE_DEVICE = (1, 1, 1)
"""Sizes of `data`, `fsdp`, `tensor` and `sequence`."""


@pytest.fixture(autouse=True)
def everything_is_sharded(monkeypatch):
    monkeypatch.setattr(mesh, "SMALLEST_SHARDED", 1)


def ragged_rows(seed):
    """Rows of which the first scores one symbol, and the last all of them."""
    batch = random_rows(seed)
    rows, length = batch.targets.shape
    scored = np.arange(length)[None, :] <= np.arange(rows)[:, None]
    return Batch(batch.ids, np.where(scored, batch.targets, UNSCORED), batch.document_ids)


class Run:
    """A program on a mesh, with a state of random parameters."""

    def __init__(self, shape, optimizer, accumulation=1):
        self.mesh = MeshConfig(*shape).build()
        self.program = train_program(CONFIG, optimizer, self.mesh, accumulation)
        params = split_model(CONFIG)[1]
        blank = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.program.abstract_state
        )
        self.start = dataclasses.replace(blank, params=params, optimizer=optimizer.init(params))

    def place(self, state):
        # A copy of its own, because training donates it.
        return jax.device_put(jax.tree.map(np.array, state), self.program.shardings)

    def train(self, state, *batches):
        metrics = {}
        with jax.set_mesh(self.mesh):
            for batch in batches:
                state, metrics = self.program.train(state, place_batch(batch, self.mesh))
        return state, jax.device_get(metrics)


@functools.cache
def descent(shape, accumulation=1):
    return Run(shape, optax.sgd(1.0), accumulation)


@functools.cache
def descended(shape, accumulation=1):
    """State and metrics after a step of gradient descent at rate 1: the gradient, in effect."""
    run = descent(shape, accumulation)
    return run.train(run.place(run.start), ragged_rows(1))


def check_equal_descent(state, metrics):
    wanted_state, wanted_metrics = descended(ONE_DEVICE)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), metrics, wanted_metrics)
    for name in ("bytes", "symbols"):
        assert getattr(metrics.sums, name) == getattr(wanted_metrics.sums, name)
    start = split_model(CONFIG)[1]
    for (path, got), wanted, before in zip(
        jax.tree.leaves_with_path(state.params),
        jax.tree.leaves(wanted_state.params),
        jax.tree.leaves(start),
        strict=True,
    ):
        # Parameters of order 1 round at 1e-7, and a gradient moves them 1000 times as much.
        assert np.abs(wanted - before).max() > 1e-3
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6, err_msg=str(path))


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8), (1, 1, 2, 4)])
def test_a_step_on_a_mesh_equals_one_on_a_single_device(shape):
    state, metrics = descended(shape)
    check_equal_descent(state, metrics)
    blocks = state.params["stack"]["blocks"]
    for kernel in (blocks["attention"]["output"]["kernel"], blocks["mlp"]["up"]["kernel"]):
        assert len(kernel.addressable_shards) == np.prod(shape)
        share = kernel.addressable_shards[0].data.size
        assert share * np.prod(shape[1:]) == kernel.size


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_accumulating_micro_batches_equals_the_whole_batch(micro_batches):
    # On two devices, so that rows are cut twice: over devices and over micro-batches.
    check_equal_descent(*descended((2, 1, 1), micro_batches))


def test_the_gradient_is_the_mean_over_scored_symbols():
    equal_rows = jax.tree.map(lambda rows: np.repeat(rows, 16, axis=0), random_rows(5, rows=1))
    targets = np.full_like(equal_rows.targets, UNSCORED)
    targets[3] = equal_rows.targets[3]
    run = descent(ONE_DEVICE)
    norms = [
        run.train(run.place(run.start), batch)[1].gradient_norm
        for batch in (equal_rows, dataclasses.replace(equal_rows, targets=targets))
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_the_sums_count_bytes_and_scored_symbols():
    _, metrics = descended(ONE_DEVICE)
    targets = ragged_rows(1).targets
    sums = metrics.sums
    assert sums.symbols == (targets != UNSCORED).sum()
    assert sums.bytes == ((targets >= 0) & (targets < BYTES)).sum()
    assert sums.bytes < sums.symbols < targets.size
    assert 0 < sums.ratio(BPB).total < sums.ratio(BPB_WITH_END).total == sums.nats
    assert sums.measure is sums.ratio(BPB)


@pytest.fixture(scope="module")
def muon_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "SMALLEST_SHARDED", 1)
        yield Run((2, 2, 2), Muon(warmup=0.0).build(10, roles_of(CONFIG)))


def test_a_step_is_a_function_that_can_be_called_alone():
    run, batch = descent(ONE_DEVICE), ragged_rows(1)
    setup = StepSetup(run.program.graphdef, optax.sgd(1.0), CONFIG.symbols, {})
    train, evaluate = (jax.jit(functools.partial(f, setup)) for f in (train_step, eval_step))
    state, metrics = train(run.start, batch)
    check_equal_descent(state, metrics)
    wanted = jax.device_get(run.program.evaluate(run.start.params, batch))
    assert evaluate(run.start.params, batch).nats == pytest.approx(wanted.nats, rel=1e-6)


def bits(tree):
    """Every leaf's bytes, so that NaN equals NaN and 0 differs from -0."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_resumed_equals_uninterrupted_bit_for_bit(muon_run):
    batches = [ragged_rows(seed) for seed in range(4)]
    straight, _ = muon_run.train(muon_run.place(muon_run.start), *batches)
    half, _ = muon_run.train(muon_run.place(muon_run.start), *batches[:2])
    assert half.step == 2
    resumed, _ = muon_run.train(muon_run.place(jax.device_get(half)), *batches[2:])
    assert bits(resumed) == bits(straight)
    assert bits(straight.params) != bits(muon_run.start.params)


def test_the_state_stays_sharded(muon_run):
    state, _ = muon_run.train(muon_run.place(muon_run.start), ragged_rows(0))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == muon_run.program.shardings
    moments = [leaf for _, leaf in optax.tree.get_all_with_path(state, "mu")]
    sizes = [
        (leaf.addressable_shards[0].data.size, leaf.size)
        for leaf in jax.tree.leaves(moments)
        if leaf.ndim == 3
    ]
    assert len(sizes) == 7
    assert all(mine * 4 == whole for mine, whole in sizes)


def test_a_factored_optimiser_trains_on_a_mesh_as_on_one_device():
    adafactor = optax.adafactor(0.01, min_dim_size_to_factor=4)
    states = []
    for shape in (ONE_DEVICE, (2, 2, 2)):
        run = Run(shape, adafactor)
        state, _ = run.train(run.place(run.start), *map(ragged_rows, range(2)))
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == run.program.shardings
        states.append(jax.device_get(state))
    rows = run.program.shardings.optimizer[0].v_row["stack"]["blocks"]["mlp"]["up"]["kernel"]
    assert rows.spec != PartitionSpec(None, None)  # it is divided
    for one, spread in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(spread, one, atol=1e-4)


def test_a_step_with_a_non_finite_loss_is_skipped(muon_run):
    poisoned = jax.tree.map(np.array, muon_run.start)
    poisoned.params["embedding"]["embedding"][7] = np.nan
    good = random_rows(2)
    good.ids[good.ids == 7] = 8
    bad = random_rows(3)
    bad.ids[0, 0] = 7
    before = muon_run.place(poisoned)
    for count in (1, 2):
        before, metrics = muon_run.train(before, bad)
        assert bits(before.params) == bits(poisoned.params)
        assert bits(before.optimizer) == bits(poisoned.optimizer)
        assert (before.skipped, before.skipped_in_row, before.step) == (count,) * 3
        assert metrics.skipped == metrics.skipped_in_row == count
    after, metrics = muon_run.train(before, good)
    assert (after.skipped, after.skipped_in_row, after.step) == (2, 0, 3)
    assert metrics.skipped_in_row == 0
    assert bits(after.params) != bits(poisoned.params)


def test_a_step_with_a_non_finite_gradient_is_skipped(monkeypatch):
    score = step.score

    def with_a_kink(params, *inputs, **options):
        loss, sums = score(params, *inputs, **options)
        # Zero, with the gradient 0 x infinity.
        return loss + jnp.sqrt(0 * params["head"]["kernel"].sum()), sums

    monkeypatch.setattr(step, "score", with_a_kink)
    run = Run(ONE_DEVICE, optax.sgd(1.0))
    state, metrics = run.train(run.place(run.start), ragged_rows(1))
    assert np.isfinite(metrics.sums.nats) and not np.isfinite(metrics.gradient_norm)
    assert bits(state.params) == bits(run.start.params)
    assert state.skipped == 1


def test_a_batch_without_scored_symbols_is_skipped(muon_run):
    batch = random_rows(1)
    batch.targets[:] = UNSCORED
    state, metrics = muon_run.train(muon_run.place(muon_run.start), batch)
    assert metrics.sums.symbols == 0 and state.skipped == 1
    assert bits(state.params) == bits(muon_run.start.params)


def test_init_depends_on_the_seed_and_not_on_the_mesh():
    optimizer = optax.sgd(1.0)
    states = []
    for shape in (ONE_DEVICE, (2, 2, 2)):
        mesh = MeshConfig(*shape).build()
        program = train_program(CONFIG, optimizer, mesh)
        states.append(program.init(3))
        assert jax.tree.map(lambda leaf: leaf.sharding, states[-1]) == program.shardings
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), states[0], states[1])
    other = program.init(4)
    embedding = [s.params["embedding"]["embedding"] for s in (states[0], other)]
    assert (np.asarray(embedding[0]) != np.asarray(embedding[1])).all()


def test_every_byte_of_every_document_is_scored_once():
    documents = [b"", b"abc", bytes(range(256)), b"\xff\x00\r\n", "\u2581 é".encode(), b""]
    rows = Rows(pack(documents), 16)
    batch = Batch(**rows.batch(range(len(rows) + 2)))
    mesh = MeshConfig(*ONE_DEVICE).build()
    program = train_program(CONFIG, optax.sgd(1.0), mesh)
    params = jax.tree.map(np.zeros_like, split_model(CONFIG)[1])
    sums = jax.device_get(program.evaluate(params, batch))
    size = sum(map(len, documents))
    assert sums.bytes == size
    assert sums.symbols == size + len(documents)
    assert (batch.targets == END).sum() == len(documents)
    # All parameters zero: every symbol is as likely as any other.
    assert sums.measure.total == pytest.approx(size * np.log(257), rel=1e-6)
    assert sums.nats == pytest.approx((size + len(documents)) * np.log(257), rel=1e-6)


def test_the_patches_of_every_level_are_measured():
    def marks(*starts):
        flags = np.isin(np.arange(8), starts)[None, :]
        return PatchMarks(flags, flags, np.zeros_like(flags))

    levels = marks(0, 2, 5, 6), marks(0, 5)
    counted = np.int32([[1, 1, 1, 1, 1, 1, 1, 0]])  # the last target is END
    nats = np.log(2) * counted * [[8, 1, 2, 4, 3, 5, 6, 7]]
    batch = Batch(None, None, np.ones((1, 8), np.int32))
    found = jax.jit(lambda: _of_levels(levels, batch, jnp.array(nats), counted, ()))()
    values = {figure.name: figure.value for ratio in found for figure in ratio.figures}
    wanted = {
        "bytes_per_patch": 7 / 4,
        "patch_length/1": 1 / 4,
        "patch_length/2": 2 / 4,
        "patch_length/3-4": 1 / 4,
        "bpb_at_lag/1": (8 + 2 + 5 + 6) / 4,  # after the first bytes of patches
        "bpb_at_lag/2": (1 + 4) / 2,
        "bpb_at_lag/3-4": 3,
        "bytes_per_patch/level_2": 7 / 2,
        "symbols_per_patch/level_2": 4 / 2,
        "patch_length/level_2/3-4": 1 / 2,
        "patch_length/level_2/5-8": 1 / 2,
        "bpb_at_lag/level_2/1": (8 + 5) / 2,
        "bpb_at_lag/level_2/2": (1 + 6) / 2,
        "bpb_at_lag/level_2/3-4": (2 + 4) / 2,
        "bpb_at_lag/level_2/5-8": 3,
    }
    assert {name: value for name, value in values.items() if value} == pytest.approx(wanted)
