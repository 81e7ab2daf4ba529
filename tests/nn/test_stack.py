from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.nn.attention.attention import AttentionMask
from bytelm.nn.block import BlockConfig, Condition
from bytelm.nn.stack import DEEPEST_UNROLLED, MixedStack, Stack

DEPTH = 3


def config(depth=DEPTH, window=None, condition_width=None):
    return BlockConfig(
        width=8,
        depth=depth,
        heads=2,
        key_value_heads=2,
        head_width=4,
        mlp="relu",
        mlp_width=8,
        qk_norm=False,
        rope_theta=10_000.0,
        mask=AttentionMask(causal=True, window=window),
        implementation="auto",
        condition_width=condition_width,
    )


def split(**options):
    return nnx.split(nnx.eval_shape(lambda: Stack(config(), rngs=nnx.Rngs(0), **options)))


@pytest.fixture(scope="module")
def parameters():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(0.5, 0.3, leaf.shape).astype(np.float32)),
        nnx.to_pure_dict(split()[1]),
    )


INPUTS = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)


def run(graphdef, parameters):
    return jax.jit(lambda params, x: nnx.merge(graphdef, params)(x, None))(parameters, INPUTS)


@pytest.fixture(scope="module")
def outputs(parameters):
    """What one block after another makes of INPUTS."""
    graphdef, _ = nnx.split(nnx.merge(split()[0], parameters).blocks)
    block = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x, None))
    x = INPUTS
    for layer in range(DEPTH):
        x = block(jax.tree.map(lambda leaf, layer=layer: leaf[layer], parameters["blocks"]), x)
    return x


@pytest.mark.parametrize(
    ("scan", "remat"), [(False, "none"), (False, "dots"), (True, "none"), (True, "full")]
)
def test_every_way_to_run_it_is_one_block_after_another(parameters, outputs, scan, remat):
    graphdef, _ = split(scan=scan, remat=remat)
    np.testing.assert_allclose(run(graphdef, parameters), outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scan", "remat"), [(True, "full"), (False, "dots"), (True, "none")])
def test_how_it_runs_is_in_the_program(parameters, scan, remat):
    graphdef, _ = split(scan=scan, remat=remat)

    def loss(params, x):
        return nnx.merge(graphdef, params)(x, None).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(parameters, jnp.ones((2, 5, 8))))
    # Attention has loops of its own, but none of DEPTH turns.
    assert (f"length={DEPTH}" in program) == scan
    assert ("checkpoint" in program or "remat" in program) == (remat != "none")


def test_deep_stacks_are_scanned_and_shallow_ones_unrolled():
    for depth, scan in ((DEEPEST_UNROLLED, False), (DEEPEST_UNROLLED + 1, True)):
        stack = nnx.eval_shape(lambda depth=depth: Stack(config(depth), rngs=nnx.Rngs(0)))
        assert stack.scan == scan


def test_layers_start_different():
    kernel = Stack(config(), rngs=nnx.Rngs(0)).blocks.mlp.up.kernel[...]
    assert kernel.shape == (DEPTH, 8, 8)
    assert (kernel[0] != kernel[1]).all()


def test_a_window_bounds_the_cache():
    def entries(window, length):
        @nnx.eval_shape
        def state():
            stack = Stack(config(window=window), rngs=nnx.Rngs(0))
            return stack.init_state(2, length, jnp.dtype("bfloat16"))

        assert len(state.layers) == DEPTH
        assert {layer.keys[0].dtype for layer in state.layers} == {jnp.dtype("bfloat16")}
        (spare,) = {layer.spare for layer in state.layers}
        (keys,) = state.layers[0].keys
        return keys.shape, spare

    assert entries(None, 20) == ((2, 2, 20, 4), None)
    assert entries(5, 20) == ((2, 2, 10, 4), 6)
    assert entries(40, 90) == ((2, 2, 56, 4), 17)
    assert entries(30, 20) == ((2, 2, 20, 4), None)


def test_unstacking_changes_the_form_and_not_the_numbers(parameters, outputs):
    stack = nnx.merge(split()[0], parameters)
    stack.unstack()
    assert len(stack.blocks) == DEPTH
    assert stack.blocks[0].mlp.up.kernel[...].shape == (8, 8)
    np.testing.assert_allclose(run(*nnx.split(stack)), outputs, rtol=1e-5, atol=1e-5)


def random_stack(**options):
    """A stack with every parameter random, and its parts, so that a function may be jitted."""
    stack = nnx.eval_shape(lambda: Stack(config(depth=2, **options), rngs=nnx.Rngs(0)))
    graphdef, shapes = nnx.split(stack)
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(0.0, 0.5, leaf.shape).astype(np.float32)),
        nnx.to_pure_dict(shapes),
    )
    return graphdef, params


LONGER = np.random.default_rng(3).normal(size=(2, 9, 8)).astype(np.float32)
GROUPS = np.int32([[1, 1, 1, 2, 2, 2, 2, 2, 3], [1, 2, 2, 2, 2, 3, 3, 3, 3]])


def run_in_pieces(graphdef, params, lengths, condition=None):
    """Outputs for LONGER, read in pieces of at most 3 positions, as many a row as `lengths`."""

    @jax.jit
    def extend(params, x, state, lengths, group_ids, condition):
        return nnx.merge(graphdef, params).extend(
            x, state, lengths, group_ids=group_ids, shared=condition
        )

    state = nnx.merge(graphdef, params).init_state(2, 9, jnp.float32)
    outputs, rows = np.zeros_like(LONGER), np.arange(2)[:, None]
    done = np.zeros((2, 1), np.int32)
    for piece in np.int32(lengths):
        offsets = np.arange(3)[None, :]
        at = np.minimum(done + offsets, 8)
        part = None
        if condition is not None:
            part = Condition(condition.vectors, condition.index[rows, at])
        out, state = extend(params, LONGER[rows, at], state, piece, GROUPS[rows, at], part)
        valid = offsets < piece[:, None]
        outputs[np.nonzero(valid)[0], at[valid]] = out[valid]
        done += piece[:, None]
    assert (done == 9).all()
    return outputs


LENGTHS = [(3, 1), (2, 3), (0, 2), (1, 1), (3, 2)]


@pytest.mark.parametrize("first_part", [256, 2])
@pytest.mark.parametrize(("window", "spare"), [(None, 16), (3, 16), (3, 0)])
def test_pieces_of_packed_documents_equal_the_whole(window, spare, first_part, monkeypatch):
    monkeypatch.setattr("bytelm.nn.block.SPARE", spare)
    monkeypatch.setattr("bytelm.nn.state.FIRST_PART", first_part)
    graphdef, params = random_stack(window=window)
    whole = jax.jit(lambda params, group_ids: nnx.merge(graphdef, params)(LONGER, group_ids))
    expected = whole(params, GROUPS)
    assert np.abs(expected - whole(params, np.ones_like(GROUPS))).max() > 0.1
    found = run_in_pieces(graphdef, params, LENGTHS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_only_differences_of_positions_matter():
    graphdef, params = random_stack()

    @jax.jit
    def whole(params, positions):
        return nnx.merge(graphdef, params)(LONGER, GROUPS, positions=positions)

    counted = whole(params, None)
    rows = np.broadcast_to(np.arange(9, dtype=np.int32), (2, 9))
    in_document = rows - np.int32([[0, 0, 0, 3, 3, 3, 3, 3, 8], [0, 1, 1, 1, 1, 5, 5, 5, 5]])
    for positions in (rows, rows + np.int32([[7], [100]]), in_document):
        np.testing.assert_allclose(whole(params, positions), counted, rtol=1e-3, atol=1e-4)
    assert np.abs(whole(params, 2 * rows) - counted).max() > 0.01


def test_conditions_are_added_to_each_layers_input():
    graphdef, params = random_stack(condition_width=6)
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(2, 4, 6)).astype(np.float32)
    condition = Condition(vectors, rng.integers(4, size=(2, 9)).astype(np.int32))

    @jax.jit
    def whole(params, condition):
        return nnx.merge(graphdef, params)(LONGER, GROUPS, shared=condition)

    @jax.jit
    def by_hand(params):
        x, stack = jnp.asarray(LONGER), nnx.merge(graphdef, params)
        stack.unstack()
        for block in stack.blocks:
            value, output = (
                dense.kernel[...] for dense in (block.condition_value, block.condition_output)
            )
            x = x + (vectors @ value @ output)[np.arange(2)[:, None], condition.index]
            x = block(x, GROUPS)
        return x

    expected = by_hand(params)
    assert np.abs(expected - whole(params, None)).max() > 0.1
    np.testing.assert_allclose(whole(params, condition), expected, rtol=1e-4, atol=1e-5)
    found = run_in_pieces(graphdef, params, LENGTHS, condition)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class FadingConfig:
    """Blocks with a recurrent state: h = h / 2 + x, and x + kernel h is their output."""

    width: int
    depth: int

    def build(self, rngs):
        return Fading(self, rngs=rngs)

    def entries(self, length):
        return 1

    def forward_flops(self, length):
        return self.depth * 2.0 * length * self.width**2


class Fading(nnx.Module):
    def __init__(self, config, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (config.width, config.width)))

    def __call__(self, x, group_ids, positions, shared):
        begins = jnp.diff(group_ids, axis=1, prepend=-1) != 0
        state = jnp.zeros((x.shape[0], x.shape[2]))
        return self.read(x, state, begins, jnp.ones(x.shape[:2], bool))[0]

    def read(self, x, state, begins, valid):
        def step(h, at):
            x, begins, valid = at
            after = jnp.where(begins[:, None], 0, h) / 2 + x
            h = jnp.where(valid[:, None], after, h)
            return h, h

        state, states = jax.lax.scan(step, state, (x.swapaxes(0, 1), begins.T, valid.T))
        return x + states.swapaxes(0, 1) @ self.kernel[...], state

    def init_state(self, batch, length, dtype, shared):
        state = jnp.zeros((batch, len(self.kernel[...])), dtype)
        return {"h": state, "group": jnp.full((batch,), -1, jnp.int32)}

    def extend(self, x, state, new, shared):
        groups = jnp.concatenate([state["group"][:, None], new.group_ids], axis=1)
        valid = new.positions >= 0
        x, h = self.read(x, state["h"], jnp.diff(groups, axis=1) != 0, valid)
        last = jnp.take_along_axis(groups, valid.sum(axis=1, keepdims=True), axis=1)[:, 0]
        return x, {"h": h, "group": last}


@pytest.mark.parametrize("scan", [False, True])
def test_blocks_of_different_types_are_one_stack(scan):
    """Recurrent blocks before and after attention, read whole or in parts."""
    configs = [FadingConfig(8, 2), config(2, window=3), FadingConfig(8, 1), config(1)]
    graphdef, shapes = nnx.split(
        nnx.eval_shape(lambda: MixedStack(configs, rngs=nnx.Rngs(0), scan=scan))
    )
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(0.0, 0.5, leaf.shape).astype(np.float32)),
        nnx.to_pure_dict(shapes),
    )
    assert {len(leaf) for leaf in jax.tree.leaves(params["stacks"]["0"])} == {2}
    whole = jax.jit(lambda params, group_ids: nnx.merge(graphdef, params)(LONGER, group_ids))
    expected = whole(params, GROUPS)
    assert np.abs(expected - whole(params, np.ones_like(GROUPS))).max() > 0.1
    found = run_in_pieces(graphdef, params, LENGTHS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    unstacked = nnx.merge(graphdef, params)
    for stack in unstacked.stacks.values():
        stack.unstack()
    found = run_in_pieces(*nnx.split(unstacked), LENGTHS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_state_of_a_mixed_stack_counts_positions_once():
    stack = MixedStack([FadingConfig(8, 1), config(1, window=3)], rngs=nnx.Rngs(0))

    @jax.jit
    def length():
        state = stack.init_state(2, 9, jnp.float32)
        return stack.extend(jnp.ones((2, 2, 8)), state, jnp.array([2, 1]))[1].length

    np.testing.assert_array_equal(length(), [2, 1])


def test_a_step_over_the_blocks_may_carry_more_than_the_activations(parameters, outputs):
    graphdef, _ = split()

    @jax.jit
    def run(params):
        def step(block, carry):
            x, sums = carry
            return block(x, None), sums + x.sum()

        return nnx.merge(graphdef, params).fold(step, (jnp.asarray(INPUTS), 0.0), first=1)

    def last_two(params, x):
        return nnx.merge(graphdef, params)(x, None, first=1)

    x, total = run(parameters)
    np.testing.assert_allclose(x, jax.jit(last_two)(parameters, INPUTS), rtol=1e-5, atol=1e-5)
    between = jax.jit(lambda p: nnx.merge(graphdef, p)(INPUTS, None, first=1, last=2))(parameters)
    np.testing.assert_allclose(total, INPUTS.sum() + between.sum(), rtol=1e-4)
