"""BLT against the authors' own code, part by part and as a whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bytelm.core.errors import UserError
from bytelm.models.blt import BLTConfig
from bytelm.patching.learned import GumbelPatches
from tests.models import golden
from tests.models.golden_blt import OUTPUTS, model_config, run

STATES = 5e-5
LOGITS = 2e-5
GRADIENTS = 1e-4
"""Relative to the largest of its array."""


def is_of_model(file):
    return "cfg.dim_global" in file and "cfg.seed" in file


@pytest.fixture(params=golden.cases("blt", is_of_model), scope="module")
def case(request):
    return golden.load(request.param)


@pytest.fixture(scope="module")
def found(case):
    """The results, the scalar of which the gradients are stored, and the gradients by name."""
    config = model_config(case)
    given = {**case.param, **{f"in.{k}": case.input[k] for k in INPUTS if k in case.input}}

    def scalar(given):
        seen = run(case, config, given)
        if "targets" in case.input:
            nats = optax.softmax_cross_entropy_with_integer_labels(
                seen["all_logits"], case.input["targets"]
            )
            seen["loss_per_token"] = jnp.where(case.input["mask"], nats, 0)
            total = seen["loss_per_token"].sum() / (case.input["mask"].sum() + 1e-6)
        elif "cotangent" in case.input:
            total = (seen["global_out"] * case.input["cotangent"]).sum()
        else:
            total = sum(
                (seen[name] * case.input[f"cotangent_{name}"]).sum()
                for name in ("patch_vectors", "h_encoder")
            )
        return total, seen | {"scalar": total}

    grads, seen = jax.jit(jax.grad(scalar, has_aux=True))(given)
    return jax.device_get((seen, grads))


INPUTS = ("h_encoder", "global_out", "patch_vectors")
"""Of parts: what comes in place of the parts before."""


def test_golden_states_logits_and_losses(case, found):
    seen, _ = found
    for name in ("h_encoder", "patch_vectors", "global_out"):
        if name in case.out:
            used = case.out.get("patch_used")
            wanted, got = case.out[name], seen[name]
            if name != "h_encoder" and used is not None:
                wanted, got = wanted[used], got[used]
            golden.assert_close(got, wanted, atol=STATES)
    logits = case.out.get("logits", case.out.get("logits_fb"))
    if logits is not None:
        golden.assert_close(seen["all_logits"], logits, atol=LOGITS)
        golden.assert_close(seen["logits"], logits[:, :, OUTPUTS], atol=LOGITS)
        golden.assert_close(seen["loss_per_token"], case.out["loss_per_token"], atol=LOGITS)
        golden.assert_close(seen["scalar"], case.out["loss"], atol=LOGITS)


def test_golden_gradients(case, found):
    _, grads = found
    assert case.grad
    for name, wanted in case.grad.items():
        path, _, rows = name.partition("[0:")
        got = grads[path][: int(rows[:-1])] if rows else grads[path]
        tolerance = GRADIENTS * np.abs(wanted).max()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance, err_msg=name)


CONFIG = BLTConfig(local_width=16, global_width=24, head_width=8, ngram_rows=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmenter": GumbelPatches()}, "gumbel does not fit the family blt: it learns from"),
        ({"pooling": ("max", "avg")}, "model.pooling is .* and queries are made of one"),
        ({"pooling": ()}, "model.pooling is .*; give different kinds, at least one"),
        ({"cross_heads": 3}, "model.cross_heads 3 does not divide model.local_width 16"),
        ({"global_head_width": 16}, "model.global_width 24 is no multiple of"),
        ({"ngrams": (3, 3)}, "model.ngrams is .*; give different sizes from 2 to 64"),
        ({"ngram_functions": 12}, "model.ngram_functions is 12; it must be from 1 to 11"),
        ({"ngram_rows": 2**29}, "less than 2"),
    ],
)
def test_wrong_configs(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)
