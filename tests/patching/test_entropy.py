"""The rules on given entropies: the authors' patches, ties, and symbols read in turns."""

import jax
import numpy as np
import pytest

from bytelm.core.vocabulary import START
from bytelm.patching.entropy import EntropyRule, entropy_edges, rounded
from bytelm.patching.rules import find_edges, split_longer
from tests.models.golden import cases, load

SPECIAL, FIRST_BYTE = 4, 4
"""Ids of the authors: those below 4 are special, byte b is b + 4."""

edges_of = jax.jit(entropy_edges, static_argnums=0)


def rule_of(case, name):
    """The rule of a golden case."""

    def given(key):
        value = case.input.get(f"{name}.{key}")
        return None if value is None or (value < 0 and key == "max_patch_length") else value.item()

    mode, threshold = str(case.input[f"{name}.mode"]), given("threshold")
    longest = given("max_patch_length")
    if given("threshold_add") is not None:
        return EntropyRule(threshold, given("threshold_add"), longest)
    is_monotonic = given("monotonicity") or mode.startswith("monotonic")
    return (
        EntropyRule(rise=threshold, longest=longest)
        if is_monotonic
        else EntropyRule(threshold, longest=longest)
    )


def starts_of_lengths(lengths, count):
    """Whether a patch starts at each of `count` positions, from the lengths of patches."""
    starts = np.zeros((len(lengths), count), bool)
    for row, sizes in zip(starts, lengths, strict=True):
        sizes = sizes[sizes > 0]
        assert sizes.sum() == count
        row[np.cumsum(sizes) - sizes] = True
    return starts


def check_lengths(case, name, edges):
    """Compares the starts, and whether the unseen next symbol is one, with a golden case."""
    starts, ends = np.asarray(edges.starts), np.asarray(edges.ends)
    following = np.concatenate([starts, ends[:, -1:]], axis=1)
    for key, found in (("lengths_next", following), ("lengths_nonext", starts)):
        if f"{name}.{key}" in case.out:
            wanted = starts_of_lengths(case.out[f"{name}.{key}"], found.shape[1])
            np.testing.assert_array_equal(found, wanted, err_msg=f"{name}.{key}")


def other_edges(case, name, tokens, one):
    """By the rules that read no entropies."""
    mode = str(case.input[f"{name}.mode"])
    if mode == "byte":
        return find_edges("fixed", tokens, one, longest=1)[0]
    if mode == "static":
        return find_edges("fixed", tokens, one, longest=case.input[f"{name}.patch_size"].item())[0]
    assert mode == "space"
    # A patch ends with the byte at which SpaceByte starts one.
    ids = np.where(tokens < SPECIAL, START, tokens - FIRST_BYTE)
    ends = np.array(find_edges("spacelike", ids, one)[0].starts)
    ends[:, 0] = True
    begins = np.arange(ids.shape[1])[None, :] == 0
    begins = np.broadcast_to(begins, ids.shape)
    starts = begins | np.pad(ends[:, :-1], ((0, 0), (1, 0)))
    longest = case.input.get(f"{name}.max_patch_length")
    longest = None if longest is None else longest.item()
    split = jax.jit(split_longer, static_argnums=5)
    return split(starts, ends, begins, one, np.zeros(len(ids), np.int32), longest)[0]


@pytest.mark.parametrize("path", cases("blt", lambda file: "in.c0.tokens" in file))
def test_golden_patches(path):
    case = load(path)
    for index in range(case.cfg["n_cases"]):
        name = f"c{index}"
        tokens = case.input[f"{name}.tokens"]
        one = np.ones_like(tokens)
        if str(case.input[f"{name}.mode"]) != "entropy":
            check_lengths(case, name, other_edges(case, name, tokens, one))
            continue
        rule = rule_of(case, name)
        check_lengths(case, name, edges_of(rule, case.input[f"{name}.entropies"], one)[0])


def test_equal_entropies_stay_equal_whatever_program_computed_them():
    # Noise as between two programs, on a threshold, on the entropy before, and in a run of zeros.
    rng = np.random.default_rng(0)
    true = rng.choice([0.0, 0.25, 1.5, 2.0], (16, 200))
    noise = rng.uniform(-1e-5, 1e-5, (2, *true.shape))
    for rule in (EntropyRule(1.5), EntropyRule(rise=0.0), EntropyRule(0.0, 0.25)):
        exact, *noisy = (
            edges_of(rule, np.float32(values), np.ones(true.shape, np.int32))[0].starts
            for values in (true, *(true + noise))
        )
        for found in noisy:
            np.testing.assert_array_equal(found, exact)
    assert (np.float32(true + noise[0]) > 1.5)[true == 1.5].any(), "without rounding they differ"


def test_entropies_are_rounded_to_numbers_of_16_bits():
    values = np.linspace(0, np.log(260), 10_000, dtype=np.float32)
    found = np.asarray(rounded(values)) * 1024
    np.testing.assert_array_equal(found, np.round(found))
    assert found.max() < 2**15
    np.testing.assert_allclose(found / 1024, values, atol=0.5 / 1024 + 1e-6)


@pytest.mark.parametrize(
    "rule", [EntropyRule(1.2, longest=6), EntropyRule(rise=0.2), EntropyRule(1.0, 0.1, 5)], ids=str
)
def test_symbols_read_in_turns_and_documents_have_the_patches_of_the_whole(rule):
    rng = np.random.default_rng(1)
    entropies = rng.uniform(0, 3, (6, 40)).astype(np.float32)
    one = np.ones(entropies.shape, np.int32)
    whole, last = edges_of(rule, entropies, one)
    carry = None
    found = np.zeros((2, *entropies.shape), bool)
    done = np.zeros((6, 1), int)
    while (done < 40).any():
        lengths = np.minimum(rng.integers(8, size=(6, 1)), 40 - done)
        index = np.minimum(done + np.arange(7)[None, :], 39)
        valid = np.arange(7)[None, :] < lengths
        values = np.take_along_axis(entropies, index, axis=1)
        edges, carry = edges_of(rule, values, valid.astype(np.int32), carry)
        row = np.nonzero(valid)[0]
        found[:, row, index[valid]] = np.asarray(edges.starts)[valid], np.asarray(edges.ends)[valid]
        done = done + lengths
    np.testing.assert_array_equal(found[0], whole.starts)
    np.testing.assert_array_equal(found[1], whole.ends)
    jax.tree.map(np.testing.assert_array_equal, carry, last)

    packed = np.concatenate([entropies[:2], entropies[2:4]], axis=1)
    edges, _ = edges_of(rule, packed, np.repeat([[1] * 40 + [2] * 40], 2, axis=0).astype(np.int32))
    wanted = np.concatenate([whole.starts[:2], whole.starts[2:4]], axis=1)
    np.testing.assert_array_equal(edges.starts, wanted)
