"""Steps on the rows of tables of n-grams that a batch reads."""

import dataclasses
import functools

import jax
import numpy as np
import optax
from flax import nnx

from bytelm.models.parameters import roles_of
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig, place_batch, single_device_mesh
from bytelm.nn.ngrams import NGrams
from bytelm.training.optimizer import AdamW
from bytelm.training.program import train_program
from tests.models.compiled import LENGTH, ROWS, first_state, random_rows, split_model

CONFIG = TransformerConfig(
    width=16, depth=1, head_width=8, mlp_width=16, ngrams=(2, 3), ngram_rows=5000
)


@functools.cache
def program(lazy, optimizer=optax.sgd(1.0)):  # noqa: B008
    return train_program(CONFIG, optimizer, single_device_mesh(), lazy_tables=lazy)


def step(program, state, batch):
    return jax.device_get(program.train(state, place_batch(batch, single_device_mesh())))


def start(program):
    params = jax.tree.map(np.array, split_model(CONFIG)[1])
    return dataclasses.replace(first_state(program, params), params=params)


def table(params):
    return params["embedding"]["ngrams"]["table"]


def rows_read(batch):
    module = NGrams(CONFIG.ngrams, 1, CONFIG.ngram_rows, 1, rngs=nnx.Rngs(0))
    return np.unique(module.numbers(batch.ids, np.arange(LENGTH)[None]))


def test_a_step_is_that_of_all_rows_where_nothing_decays():
    batch = random_rows(1)
    (whole, metrics), (lazy, lazy_metrics) = (
        step(program(lazy), start(program(lazy)), batch) for lazy in (False, True)
    )
    for wanted, got in zip(*map(jax.tree.leaves, (whole, lazy)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    np.testing.assert_allclose(lazy_metrics.gradient_norm, metrics.gradient_norm, rtol=1e-5)
    moved = np.flatnonzero((table(lazy.params) != table(start(program(True)).params)).any(axis=1))
    assert len(moved) > ROWS and set(moved) <= set(rows_read(batch))


def test_other_rows_have_neither_decay_nor_momentum():
    options = {"warmup": 0.0, "decayed": ("",), "weight_decay": 1.0}
    lazy = program(True, AdamW(**options).build(9, roles_of(CONFIG)))
    first, second = random_rows(2), random_rows(3)
    one, _ = step(lazy, start(lazy), first)
    two, _ = step(lazy, jax.tree.map(np.array, one), second)
    others = np.setdiff1d(np.arange(len(table(one.params))), rows_read(second))
    only_first = np.intersect1d(others, rows_read(first))
    moments, before = (
        next(part for part in each.optimizer if isinstance(part, optax.ScaleByAdamState))
        for each in (two, one)
    )
    assert len(only_first) and (table(moments.mu)[only_first] != 0).any()
    for tree, earlier in ((two.params, one.params), (moments.mu, before.mu)):
        np.testing.assert_array_equal(table(tree)[others], table(earlier)[others])
    # Those that are read change, by decay alone where the gradient is zero.
    assert (table(two.params) != table(one.params))[rows_read(second)].all()


def test_a_step_that_is_not_finite_changes_no_row():
    before = start(program(True))
    before.params["head"]["kernel"][0] = np.nan
    after, metrics = step(program(True), jax.tree.map(np.array, before), random_rows(4))
    assert int(metrics.skipped) == 1
    np.testing.assert_array_equal(table(after.params), table(before.params))


def test_no_device_gathers_a_table():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    divided = train_program(CONFIG, optax.adam(1.0), mesh)
    batch = place_batch(random_rows(5), mesh)
    with jax.set_mesh(mesh):
        state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            divided.abstract_state,
            divided.shardings,
        )
        program = divided.lower_train(state, batch).compile().as_text()
    whole = f"[{table(divided.abstract_state.params).shape[0]},{CONFIG.width}]"
    assert "all-gather" in program and whole not in program
