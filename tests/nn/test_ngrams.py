"""Hashed n-grams: against the authors' integers and embeddings, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.vocabulary import BYTES, END, PAD, START
from bytelm.nn.ngrams import MULTIPLIERS, NGrams, floor_modulus, hash_ngrams, hashed_ids
from tests.models.golden import cases, load


def ours(tokens):
    """The symbols of BLT's ids."""
    special = np.array([PAD, START, END, PAD])
    return np.where(tokens > 3, tokens - 4, special[np.minimum(tokens, 3)]).astype(np.int32)


@pytest.fixture(params=cases("blt", lambda file: "out.raw_int64" in file), scope="module")
def case(request):
    return load(request.param)


def sizes(case):
    return tuple(map(int, case.cfg["group_sizes"].split(",")))


def test_golden_hashes_and_rows(case):
    tokens, most = ours(case.input["tokens"]), max(sizes(case))
    table_sizes = list(map(int, case.cfg["table_sizes_ids"].split(",")))

    @jax.jit
    def hashed(ids):
        codes = jnp.pad(hashed_ids(ids), ((0, 0), (most - 1, 0)))
        back = [codes[:, most - 1 - k : most - 1 - k + ids.shape[1]] for k in range(most)]
        values = [
            hash_ngrams(back, size, multiplier)
            for multiplier in MULTIPLIERS[: case.cfg["n_functions_ids"]]
            for size in sizes(case)
        ]
        return values, [[floor_modulus(v, size) for v in values] for size in table_sizes]

    values, rows = hashed(tokens)
    shape = case.out["raw_int64"].shape
    raw = [(np.uint64(high) << np.uint64(32) | np.uint64(low)) for high, low in np.array(values)]
    np.testing.assert_array_equal(
        np.array(raw).view(np.int64).reshape(shape), case.out["raw_int64"]
    )
    for size, found in zip(table_sizes, rows, strict=True):
        np.testing.assert_array_equal(
            np.array(found).reshape(shape), case.out[f"ids_{size}"], err_msg=str(size)
        )


def test_golden_embeddings_and_gradients(case):
    tables = [f"encoder_hash_tok_embedding.{index}.weight" for index in range(999)]
    tables = [name for name in tables if name in case.param]
    size, width = case.param[tables[0]].shape
    functions = case.cfg["n_functions_embeds"]
    graphdef, _ = nnx.split(
        nnx.eval_shape(lambda: NGrams(sizes(case), functions, size, width, rngs=nnx.Rngs(0)))
    )
    tokens = case.input["tokens"]
    positions = jnp.arange(tokens.shape[1])[None, :]

    def embedded(weights):
        module = nnx.merge(graphdef, {"table": jnp.concatenate([weights[t] for t in tables])})
        x = module(ours(tokens), positions, dtype=jnp.float32)
        x += weights["local_encoder.tok_embeddings.weight"][tokens]
        return (x * case.input["cotangent"]).sum(), x

    grads, found = jax.jit(jax.grad(embedded, has_aux=True))(case.param)
    np.testing.assert_allclose(found, case.out["embeds"], atol=2e-6)
    for name, wanted in case.grad.items():
        np.testing.assert_allclose(
            grads[name], wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=name
        )


@pytest.mark.parametrize("size", [1, 2, 3, 257, 2**16, 500_002, 2**23 + 9, 2**30 + 7, 2**31 - 1])
def test_the_modulus_of_any_table_size(size):
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**63), 2**63, 50, dtype=np.int64)
    values[:6] = 0, -1, 2**63 - 1, -(2**63), size, -size
    unsigned = values.view(np.uint64)
    parts = (unsigned >> np.uint64(32)).astype(np.uint32), unsigned.astype(np.uint32)
    with np.errstate(over="ignore"):
        found = floor_modulus(tuple(map(jnp.asarray, parts)), size)
    np.testing.assert_array_equal(found, [int(value) % size for value in values])


def test_a_long_ngram_does_not_overflow():
    codes = [jnp.full((1,), 260, jnp.uint32)] * 64
    high, low = hash_ngrams(codes, 64, MULTIPLIERS[6])
    wanted = sum(260 * MULTIPLIERS[6] ** place for place in range(64)) % 2**64
    assert int(high[0]) * 2**32 + int(low[0]) == wanted


def test_documents_do_not_see_each_other_and_what_was_read_counts():
    module = NGrams((2, 4), 1, 1000, 4, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    ids = rng.integers(0, BYTES, (2, 12), dtype=np.int32)
    positions = np.concatenate([np.arange(7), np.arange(5)])[None]
    find = jax.jit(module.numbers)
    numbers = np.asarray(find(ids, positions))
    alone = np.asarray(find(ids[:, 7:], np.arange(5)[None]))
    np.testing.assert_array_equal(numbers[:, 7:], alone)
    # The symbols before are read from `before`, whatever it holds before the document.
    before = rng.integers(0, BYTES, (2, 3), dtype=np.int32)
    before[:, 1:] = ids[:, 7:9]
    rest = find(ids[:, 9:], np.arange(2, 5)[None], before)
    np.testing.assert_array_equal(rest, alone[:, 2:])


def test_a_table_of_chosen_rows_gives_the_same():
    module = NGrams((2, 3), 2, 50, 4, rngs=nnx.Rngs(0))
    ids, positions = np.arange(20, dtype=np.int32)[None] % 7, np.arange(20)[None]
    wanted = module(ids, positions, dtype=jnp.float32)
    chosen = np.unique(module.numbers(ids, positions))
    module.table = nnx.Param(module.table[...][chosen], role="ngrams")
    module.chosen = jnp.asarray(chosen)
    np.testing.assert_array_equal(module(ids, positions, dtype=jnp.float32), wanted)
