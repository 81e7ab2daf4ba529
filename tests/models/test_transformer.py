import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.models import ModelConfig
from bytelm.models.transformer import TransformerConfig
from tests.models.compiled import LENGTH, backward, forward, random_rows, split_model
from tests.models.families import FAMILIES, small


def test_an_untrained_model_finds_every_symbol_as_likely():
    params = jax.jit(lambda: nnx.state(small(depth=1).build(nnx.Rngs(0))))()
    assert not params["head"]["kernel"][...].any()
    assert float(params["embedding"]["embedding"][...].std()) == pytest.approx(1, rel=0.05)


def test_the_scale_of_a_tied_head_gives_logits_of_order_one():
    config = FAMILIES["transformer of many tokens, tied, gelu, scanned and rematerialised"]
    logits = forward(config)(split_model(config)[1], random_rows(1)).logits
    assert 0.8 < float(jnp.std(logits)) < 1.25


def test_a_window_bounds_what_the_stack_sees():
    # Two layers, each 4 positions back.
    config = FAMILIES["transformer, window, grouped and qk-norm"]
    weights = jnp.zeros((LENGTH, LENGTH)).at[:, -1].set(1.0)
    *_, nudges = backward(config)(split_model(config)[1], random_rows(2), weights)
    reach = 2 * (config.window - 1)
    assert (nudges[:, : LENGTH - 1 - reach] == 0).all()
    assert (nudges[:, LENGTH - 1 - reach :] != 0).all()


def test_running_the_stack_another_way_changes_no_number():
    scanned = FAMILIES["transformer of many tokens, tied, gelu, scanned and rematerialised"]
    plain = dataclasses.replace(scanned, scan=False, remat="none")
    _, params = split_model(plain)
    weights = jnp.ones((LENGTH, LENGTH))
    wanted = backward(plain)(params, random_rows(3), weights)
    got = backward(scanned)(params, random_rows(3), weights)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


def test_bfloat16_gives_float32_logits_close_by():
    config = small(compute_dtype="bfloat16")
    _, params = split_model(config)
    rough = forward(config)(params, random_rows(4)).logits
    exact = forward(small())(params, random_rows(4)).logits
    assert rough.dtype == jnp.float32
    difference = np.asarray(jnp.std(rough - exact) / jnp.std(exact))
    assert 1e-4 < difference < 0.03


def test_auto_dtype_is_float32_on_cpu():
    assert small().dtype == jnp.float32
    assert small(compute_dtype="bfloat16").dtype == jnp.bfloat16


def test_parameters_are_float32_whatever_is_computed_in():
    model = nnx.eval_shape(lambda: small(compute_dtype="bfloat16").build(nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}


def test_a_tied_model_has_no_head_of_its_own():
    params = [split_model(small(tied_head=tied))[1] for tied in (True, False)]
    assert params[1].keys() - params[0].keys() == {"head"}


def test_a_spare_row_can_stand_for_start_and_end():
    # Then all other spare rows are left out, and the logits of text stay as they are.
    config = small(start_row=258, end_row=258, spare_rows=4)
    params = split_model(config)[1]
    assert params["head"]["kernel"].shape == (32, 260)
    found = forward(config)(params, random_rows(1)).logits
    kept = [*range(256), 258]
    columns = {**params, "head": {"kernel": params["head"]["kernel"][:, kept]}}
    table = params["embedding"]["embedding"]
    rows = jnp.concatenate([table[:256], table[258:259], table[258:259], table[:1]])
    wanted = forward(small())({**columns, "embedding": {"embedding": rows}}, random_rows(1))
    np.testing.assert_allclose(found, wanted.logits, atol=1e-5)


def test_it_is_registered_under_its_family():
    assert ModelConfig.variants["transformer"] is TransformerConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, r"model\.width is 0"),
        ({"depth": -1}, r"model\.depth is -1"),
        ({"mlp_width": 0}, r"model\.mlp_width is 0"),
        ({"window": 0}, r"model\.window is 0"),
        ({"head_width": 7, "heads": 2}, r"model\.head_width is 7.* even"),
        ({"width": 100}, r"width 100 is no multiple of model\.head_width 64"),
        ({"heads": 4, "key_value_heads": 3}, r"key_value_heads 3 does not divide the 4"),
        ({"key_value_heads": 8}, r"key_value_heads 8 does not divide the 4"),
        ({"rope_scaling": (8.0, 1.0, 4.0)}, r"model\.rope_scaling is .*; give four numbers"),
        ({"rope_scaling": (8.0, 4.0, 1.0, 9.0)}, r"rope_scaling is .* greater than the second"),
        ({"norm_epsilon": 0.0}, r"model\.norm_epsilon is 0\.0; it must be above 0"),
        ({"start_row": 3}, r"only one of model\.start_row and model\.end_row is set"),
        ({"start_row": 3, "end_row": 256}, r"model\.end_row is 256; the rows of the tables are 0"),
        ({"spare_rows": 2}, r"model\.spare_rows is 2, and there is no model\.end_row"),
        ({"spare_rows": -1}, r"model\.spare_rows is -1; it must be at least 0"),
    ],
)
def test_a_bad_config_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        TransformerConfig(**fields)
