"""Laws of every family. Each is written once, for all of them.

Those of training are in `test_laws_of_training.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.vocabulary import BYTES, END, START, UNSCORED
from bytelm.models import ModelConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.parameters import roles_of
from bytelm.nn.mesh import MeshConfig, parameter_shardings, place_batch
from bytelm.nn.state import put, take
from tests.models.compiled import (
    LENGTH,
    ROWS,
    TOLERANCE,
    backward,
    decoder,
    empty_state,
    forward,
    padded,
    random_rows,
    split_model,
    verifier,
    with_slots,
)
from tests.models.families import ENCODER_DECODERS, FAMILIES, SHARDED, TAKEN_BACK, TRAINED
from tests.models.nested import NestedConfig

later = np.triu(np.ones((LENGTH, LENGTH), bool), k=1)
"""[t, s]: whether s is after t."""


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys(), scope="module")
def config(request):
    return request.param


def output_of(config, batch):
    params = split_model(config)[1]
    if config in FAMILIES.values():  # other laws ask for its gradients: no second program
        return backward(config)(params, batch, np.zeros(batch.ids.shape, np.float32))[0]
    return forward(config)(params, batch)


def logits(config, batch):
    return np.asarray(output_of(config, batch).logits)


def gradients(config, batch, weights):
    return backward(config)(split_model(config)[1], batch, np.asarray(weights, np.float32))[1:]


def same_rows(seed):
    return jax.tree.map(lambda rows: np.repeat(rows, ROWS, axis=0), random_rows(seed, rows=1))


def test_no_gradient_comes_from_later_positions(config):
    # Row t asks for the gradient of the loss at position t.
    _, _, nudges = gradients(config, same_rows(1), np.eye(LENGTH))
    nudges = np.asarray(nudges)
    assert (nudges[later] == 0).all()
    # A document's first symbol is START in any case, and need not be looked at.
    assert (np.diag(nudges)[1:] != 0).all()
    assert (np.diag(nudges, k=-1)[1:] != 0).all()


def test_no_gradient_comes_from_other_rows(config):
    weights = np.zeros((ROWS, LENGTH))
    weights[3] = 1
    _, _, nudges = gradients(config, random_rows(2), weights)
    nudges = np.asarray(nudges)
    assert (nudges[3, 1:] != 0).all()
    assert (np.delete(nudges, 3, axis=0) == 0).all()


def test_flipping_a_byte_changes_nothing_before_it(config):
    batch = same_rows(3)
    flipped = batch.ids.copy()
    # Row t gets another symbol at position t.
    flipped[np.arange(ROWS), np.arange(LENGTH)] ^= 1
    before = logits(config, batch)
    after = logits(config, dataclasses.replace(batch, ids=flipped))
    changed = (before != after).any(axis=-1)
    assert not changed[~later & ~np.eye(LENGTH, dtype=bool)].any()
    assert np.diag(changed)[1:].all()


def test_flipping_a_byte_changes_no_other_row(config):
    batch = random_rows(4)
    flipped = batch.ids.copy()
    flipped[::2, 5] ^= 1
    changed = logits(config, batch) != logits(config, dataclasses.replace(batch, ids=flipped))
    np.testing.assert_array_equal(changed.any(axis=(1, 2)), np.arange(ROWS) % 2 == 0)


def test_logits_give_probabilities_of_every_byte_and_of_the_end(config):
    values = logits(config, random_rows(5))
    assert values.shape == (ROWS, LENGTH, config.symbols.outputs) and values.dtype == np.float32
    probabilities = np.asarray(jax.nn.softmax(values), np.float64)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
    assert (probabilities > 0).all()


def test_targets_are_not_looked_at(config):
    batch = random_rows(6)
    blind = dataclasses.replace(batch, targets=np.full_like(batch.targets, UNSCORED))
    np.testing.assert_array_equal(logits(config, batch), logits(config, blind))


def document(seed, size):
    text = np.random.default_rng(seed).integers(0, BYTES, size, dtype=np.int32)
    return np.concatenate([[START], text, [END]]).astype(np.int32)


def packed_row():
    """Three documents, of 6, 2 and 5 symbols, and what they are packed."""
    documents = document(7, 4), document(8, 0), document(9, 3)
    return documents, np.repeat([1, 2, 3], [6, 2, 5])


def test_a_packed_document_is_scored_as_if_alone(config):
    # How many slots a document has depends on those before it: here there are enough.
    config = with_slots(config)
    (first, second, third), segments = packed_row()
    batch = padded(np.concatenate([first, second, third]), first, second, third)
    batch.document_ids[0, :13] = segments
    packed, *alone = logits(config, batch)[:4]
    for whole, start in zip([first, second, third], [0, 6, 8], strict=True):
        np.testing.assert_allclose(
            packed[start : start + len(whole)], alone.pop(0)[: len(whole)], atol=TOLERANCE
        )


def test_no_gradient_comes_from_other_documents(config):
    # Whether or not there are slots for all patches. Row r asks for the loss of document r + 1.
    documents, segments = packed_row()
    row = np.concatenate(documents)
    batch = padded(row, row, row)
    batch.document_ids[:3, :13] = segments
    weights = np.zeros((ROWS, LENGTH))
    weights[:3, :13] = segments == np.array([[1], [2], [3]])
    _, _, nudges = gradients(config, batch, weights)
    nudges, own = np.asarray(nudges)[:3, :13], weights[:3, :13] == 1
    assert (nudges[~own] == 0).all()
    assert (nudges[0][own[0]][1:-1] != 0).all()  # END is no input, and START need not count


def test_padding_is_not_seen_and_breaks_nothing(config):
    batch = padded(document(10, 6), document(11, 0))
    garbage = np.random.default_rng(12).integers(0, BYTES, batch.ids.shape, dtype=np.int32)
    real = batch.document_ids > 0
    other = dataclasses.replace(batch, ids=np.where(real, batch.ids, garbage))
    values = logits(config, batch)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values[real], logits(config, other)[real])

    nats, of_params, nudges = gradients(config, batch, np.ones((ROWS, LENGTH)))
    assert (np.asarray(nudges)[~real] == 0).all()
    assert (np.asarray(nats)[batch.targets == UNSCORED] == 0).all()
    for gradient in jax.tree.leaves(of_params):
        assert np.isfinite(gradient).all()


def read(config, ids, calls):
    """Logits of decoding; each call to `extend` is given as (N, lengths)."""
    params, extend = decoder(config)
    state = empty_state(config)
    values = np.zeros((*ids.shape, config.symbols.outputs), np.float32)
    done = np.zeros(len(ids), int)
    for size, lengths in calls:
        offsets = np.arange(size)
        # Past `lengths` are symbols that must be ignored.
        chunk = ids[np.arange(len(ids))[:, None], np.minimum(done[:, None] + offsets, LENGTH - 1)]
        new, state = extend(params, chunk, state, np.asarray(lengths, np.int32))
        assert np.isfinite(new).all()
        for row, count in enumerate(lengths):
            values[row, done[row] : done[row] + count] = new[row, :count]
        done += lengths
    assert (done == LENGTH).all()
    return values


def test_decoding_equals_the_full_forward_at_every_split(config):
    # Row k prefills k symbols and reads the others one by one; row 0 prefills nothing.
    batch = random_rows(13)
    split = np.arange(ROWS)
    steps = [(1, (split + step < LENGTH).astype(int)) for step in range(LENGTH)]
    values = read(config, batch.ids, [(LENGTH, split), *steps])
    np.testing.assert_allclose(values, logits(config, batch), atol=TOLERANCE)


def test_decoding_in_uneven_chunks_equals_the_full_forward(config):
    batch = random_rows(14)
    rng = np.random.default_rng(15)
    calls, done = [], np.zeros(ROWS, int)
    while done.min() < LENGTH:
        # Up to more than the window: a chunk may push out keys that its first symbols still see.
        lengths = np.minimum(rng.integers(0, 8, ROWS), LENGTH - done)
        calls.append((LENGTH, lengths))
        done += lengths
    values = read(config, batch.ids, calls)
    np.testing.assert_allclose(values, logits(config, batch), atol=TOLERANCE)


@pytest.mark.parametrize("name", TAKEN_BACK)
def test_taking_drafts_back_is_never_having_read_on(name):
    """Rows read 6 symbols, then up to 5 drafted ones of which some are rejected, then the rest."""
    config = FAMILIES[name]
    params, extend = decoder(config)
    right, drafted = random_rows(17), random_rows(18)
    start, drafts, rows = 6, 5, np.arange(ROWS)
    read_drafts = rows % (drafts + 1)
    kept = rows % (read_drafts + 1)
    _, state = extend(params, right.ids, empty_state(config), np.full(ROWS, start, np.int32))
    draft = drafted.ids[:, start : start + drafts]
    read_drafts, kept = read_drafts.astype(np.int32), kept.astype(np.int32)
    verified, state = verifier(config)(draft, state, read_drafts, kept)

    places = np.arange(LENGTH)
    is_draft = (places[None, :] >= start) & (places[None, :] < start + kept[:, None])
    ids = np.where(is_draft, drafted.ids, right.ids)
    expected = logits(config, dataclasses.replace(right, ids=ids))
    for place in range(drafts):
        counts = place < kept
        got, wanted = verified[counts, place], expected[counts, start + place]
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE)
    after = np.roll(ids, -start, axis=1)
    for step in range(4):
        at = (kept + step)[:, None]
        new, state = extend(
            params, np.take_along_axis(after, at, axis=1), state, np.ones(ROWS, np.int32)
        )
        np.testing.assert_allclose(new[:, 0], expected[rows, start + at[:, 0]], atol=TOLERANCE)


def test_every_leaf_of_a_state_has_the_batch_axis_first(config):
    assert {leaf.shape[0] for leaf in jax.tree.leaves(empty_state(config))} == {ROWS}


@pytest.mark.parametrize("name", TAKEN_BACK)
def test_rows_that_are_moved_give_the_same_logits(name):
    config = FAMILIES[name]
    state = empty_state(config)
    params, extend = decoder(config)
    batch, order, first = random_rows(19), np.roll(np.arange(ROWS), 3), jnp.arange(2)
    half = np.full(ROWS, LENGTH // 2, np.int32)
    _, state = extend(params, batch.ids, state, half)
    move = jax.jit(lambda state: take(put(state, first, take(state, jnp.array([5, 6]))), order))
    moved = move(state)
    source = np.arange(ROWS)
    source[:2] = 5, 6
    wanted, _ = extend(params, batch.ids[source][order], moved, half)
    ids = np.concatenate([batch.ids[:, : LENGTH // 2]] * 2, axis=1)[source][order]
    expected = logits(config, dataclasses.replace(batch, ids=ids))
    np.testing.assert_allclose(wanted[:, : LENGTH // 2], expected[:, LENGTH // 2 :], atol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "overflow" in name])
def test_overflow_depends_on_the_symbols_before_alone(name):
    """Neither on the state's length nor on how many symbols are read at a time."""
    config, total = FAMILIES[name], 40
    params, extend = decoder(config)
    ids = random_rows(22, rows=1, length=total).ids
    expected = None
    for length in (total, 2 * total):
        state, done = empty_state(config, length, shortest=8), np.zeros(ROWS, np.int32)
        values = np.zeros((ROWS, total, config.symbols.outputs), np.float32)
        while done.min() < total:
            # Row k reads up to k + 1 symbols at a time.
            lengths = np.minimum(np.arange(1, ROWS + 1), total - done).astype(np.int32)
            at = done[:, None] + np.arange(LENGTH)[None, :]
            new, state = extend(params, ids[0, np.minimum(at, total - 1)], state, lengths)
            for row, count in enumerate(lengths):
                values[row, done[row] : done[row] + count] = new[row, :count]
            done += lengths
        expected = values[0] if expected is None else expected
        for row in range(ROWS):
            np.testing.assert_allclose(values[row], expected, atol=TOLERANCE, err_msg=f"row {row}")
        assert nnx.merge(*split_model(config)).full_rows(state).all()


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_over_every_mesh_axis_equals_one_device(name, monkeypatch):
    config = FAMILIES[name]
    monkeypatch.setattr("bytelm.nn.mesh.SMALLEST_SHARDED", 1)
    batch = random_rows(16)
    weights = np.ones((ROWS, LENGTH), np.float32)
    nats, of_params, nudges = jax.device_get(gradients(config, batch, weights))

    mesh = MeshConfig(fsdp=2, tensor=2, sequence=2).build()
    abstract = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    shardings = parameter_shardings(nnx.state(abstract), mesh)
    params = jax.device_put(split_model(config)[1], shardings)
    with jax.set_mesh(mesh):
        _, *got = backward(config)(params, *place_batch((batch, weights), mesh))
    # A sum of terms that cancel (a bias of all keys changes no softmax) is as exact as its terms.
    terms = max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_params)) / 32
    for path, wanted in jax.tree.leaves_with_path([nats, of_params, nudges]):
        values = dict(jax.tree.leaves_with_path(got))[path]
        tolerance = TOLERANCE * max(np.abs(wanted).max(), terms)
        np.testing.assert_allclose(values, wanted, rtol=0, atol=tolerance, err_msg=str(path))


def test_no_parameter_has_a_weak_type(config):
    # It would lose that in a step, and each step of another type is compiled again.
    abstract = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(nnx.state(abstract)))


def test_every_family_is_held_to_the_laws():
    own = {k for k in ModelConfig.variants.values() if k.__module__.startswith("bytelm.")}
    with_encoder = {kind for kind in own if issubclass(kind, EncoderDecoderConfig)}
    assert with_encoder == set(map(type, ENCODER_DECODERS.values()))
    assert own - with_encoder == set(map(type, FAMILIES.values())) - {NestedConfig}
    families = {config.family for config in FAMILIES.values()}
    for names in (SHARDED, TAKEN_BACK, TRAINED):
        assert {FAMILIES[name].family for name in names} == families


@functools.cache
def kinds_of_parameters(config):
    """(The last two names of its path, its role) of each parameter."""
    roles = jax.tree.leaves_with_path(roles_of(config))
    names = ([key.key for key in path if not str(key.key).isdecimal()] for path, _ in roles)
    return {(*path[-2:], role) for path, (_, role) in zip(names, roles, strict=True)}


def test_every_kind_of_parameter_is_sharded(config):
    """One that only a new variant has: add the variant to `SHARDED`."""
    sharded = (kinds_of_parameters(FAMILIES[name]) for name in SHARDED)
    assert kinds_of_parameters(config) <= set().union(*sharded)


@functools.cache
def kinds_of_state(config):
    """What a decoding state is made of: (a field, the type of its value, or whether it is 0)."""

    def parts(value, name=None):
        yield name, bool(value) if isinstance(value, int) else type(value)
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield from parts(getattr(value, field.name), (type(value), field.name))
        elif isinstance(value, tuple):
            for each in value:
                yield from parts(each, name)

    return {*parts(empty_state(config)), type(getattr(config, "segmenter", None))}


def test_every_kind_of_state_is_taken_back_and_moved(config):
    """One that only a new variant has: add the variant to `TAKEN_BACK`."""
    taken_back = (kinds_of_state(FAMILIES[name]) for name in TAKEN_BACK)
    assert kinds_of_state(config) <= set().union(*taken_back)


def test_the_rows_of_the_laws_have_patches_and_overflow_at_every_level(config):
    """Otherwise the other laws would say nothing about a level."""
    levels = jax.device_get(output_of(config, random_rows(13)).levels)
    overflows = "overflow" in next(name for name, c in FAMILIES.items() if c is config)
    for number, level in enumerate(levels, start=1):
        patches, overflow = level.starts.sum(axis=1), level.ignored.sum()
        assert patches.mean() >= 3, f"level {number}: too few patches; shorten them (longest_patch)"
        assert (overflow > 0) == overflows, f"level {number}: {overflow} boundaries overflow"


def test_patches_of_inner_levels_are_made_of_those_around_them(config):
    batch = random_rows(13)
    levels = jax.device_get(output_of(config, batch).levels)
    around = batch.document_ids > 0
    for level in levels:
        assert (level.starts <= around).all() and level.starts[:, 0].all()
        assert not (level.boundaries & level.ignored).any()
        around = level.starts
