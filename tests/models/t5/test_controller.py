import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.models.contract import DELETED
from bytelm.models.t5.controller import RatioController
from tests.models import golden


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


def test_an_impossible_target():
    with pytest.raises(UserError, match=r"the target deletion ratio is 1.5; it must be between"):
        RatioController(1.5)
