import numpy as np
import pytest

from bytelm.core.vocabulary import PAD
from bytelm.models.contract import DELETED
from bytelm.models.encoder_decoder import RatioController
from tests.models import golden, golden_t5

GATES = 2e-4
"""Tolerance of gates, from 0 to -30: the authors' own rounding is 6e-5."""


@pytest.fixture(params=golden.cases("mrt5", golden_t5.is_mrt5))
def path(request):
    return request.param


@pytest.fixture(params=["softmax", "softmax1"])
def kind(request):
    return request.param


def test_golden_mrt5_soft_deletion(path, kind):
    out = golden.load(path).out
    result = golden_t5.evaluate(path, softmax1=kind == "softmax1")
    golden.assert_close(golden_t5.by_t5_id(result.logits), out[f"{kind}.soft.logits"])
    golden.assert_close(result.loss, out[f"{kind}.soft.loss"])
    there = golden_t5.batch(golden.load(path)).inputs != PAD
    wanted = out[f"{kind}.soft.encoder_last_hidden_state"]
    golden.assert_close(result.states[there], wanted[there])


def test_golden_mrt5_gates(path, kind):
    case = golden.load(path)
    result = golden_t5.evaluate(path, softmax1=kind == "softmax1")
    there = golden_t5.batch(case).inputs != PAD
    golden.assert_close(result.gate_input[there], case.out[f"{kind}.gate_input"][there])
    golden.assert_close(result.gate_logits[there], case.out[f"{kind}.gate_logits"][there])
    golden.assert_close(result.reading.gate, case.out[f"{kind}.gate_values"], atol=GATES)


def test_golden_mrt5_hard_deletion(path, kind):
    out = golden.load(path).out
    result = golden_t5.evaluate(path, hard=True, softmax1=kind == "softmax1")
    golden.assert_close(golden_t5.by_t5_id(result.logits), out[f"{kind}.hard.logits"])
    golden.assert_close(result.loss, out[f"{kind}.hard.loss"])
    wanted_states = out[f"{kind}.hard.encoder_last_hidden_state"]
    for row, wanted in enumerate(out[f"{kind}.hard.kept_positions"]):
        kept = np.flatnonzero(result.reading.kept[row])
        np.testing.assert_array_equal(kept, wanted[wanted >= 0])
        golden.assert_close(result.states[row, : len(kept)], wanted_states[row, : len(kept)])


def test_golden_mrt5_loss_and_deletion(path):
    case = golden.load(path)
    result = golden_t5.evaluate(path)
    golden.assert_close(result.total_loss, case.out["total_loss"], atol=GATES)
    inputs = golden_t5.batch(case).inputs != PAD
    deleted = result.reading.deleted.sum() / inputs.sum()
    golden.assert_close(deleted, case.out["deletion_rate_non_pad"], atol=1e-6)
    mean = result.reading.losses["gate"] / case.cfg["alpha"]
    golden.assert_close(mean, case.out["gate_loss_mean_unscaled"], atol=GATES)


def test_golden_mrt5_gradients(path):
    golden.assert_gradients(golden.load(path), golden_t5.evaluate(path))


def test_golden_mrt5_controller_after_one_step(path):
    case = golden.load(path)
    controller = RatioController(0.5)
    ratio = case.out["deletion_rate_non_pad"]
    state = controller.update(controller.init(), DELETED(ratio, 1))
    golden.assert_close(
        controller.weight(state), case.out["alpha_after_one_step_target_0.5"], atol=1e-7
    )
