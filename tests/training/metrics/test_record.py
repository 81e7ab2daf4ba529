import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from bytelm.core.statistics import BPB, BPB_WITH_END, Statistic
from bytelm.patching.learned import TARGET, boundary_statistics
from bytelm.patching.patches import BYTES_PER_PATCH, LENGTHS, OVERFLOW, PATCH_LENGTH
from bytelm.training.auxiliary import AUXILIARY
from bytelm.training.metrics.record import LoopState, Record
from bytelm.training.step import StepMetrics, Sums

SCRIPTS = ("eng", "rus", "hin")


def boundaries(made, there, hits, counted):
    """So many boundaries and so much whitespace among the first `counted` of 100 symbols."""
    is_boundary, is_whitespace, counts = np.zeros((3, 1, 100), bool)
    is_boundary[0, :made] = True
    is_whitespace[0, made - hits : made - hits + there] = True
    counts[0, :counted] = True
    return boundary_statistics(is_boundary, is_whitespace, counts)


def step(nats=10.0, size=20, made=5, gradient_norm=0.5, skipped=0, patches=4):
    sums = Sums(
        nats=nats,
        bytes=size,
        symbols=25,
        inputs=None,
        patches=patches,
        statistics=(
            BPB(nats - 2.0, size),
            BPB_WITH_END(nats, size),
            BYTES_PER_PATCH(size, patches),
            PATCH_LENGTH(np.array([0, 1, 0, 3, 0, 0, 0]), 4, parts=LENGTHS),
            BYTES_PER_PATCH(np.array([12, 8, 0]), np.array([3, 1, 0]), parts=SCRIPTS),
            OVERFLOW(1, patches + 1),
            *boundaries(made, 8, 4 if made else 0, 25),
            TARGET(6.0, 25),
            AUXILIARY(np.array([50.0]), 25, parts=("boundaries",)),
        ),
    )
    return StepMetrics(sums, gradient_norm, skipped, skipped, {"gate": 2.5})


def flat(metrics):
    sums = dataclasses.replace(metrics.sums, patches=None, statistics=metrics.sums.statistics[:2])
    return dataclasses.replace(metrics, sums=sums)


def flops(patches):
    return 10.0 * patches


def record(*steps):
    made = Record()
    made.resume()
    for metrics in steps:
        made.add(metrics, 100.0)
    return made


def values(made):
    return {figure.name: figure.value for figure in made.figures(flops, 1.0)}


def test_sums_are_divided_once():
    scalars = values(record(step(), step(nats=30.0, size=60, made=15, gradient_norm=0.25)))
    wanted = {
        "bpb": 36 / 80 / np.log(2),
        "bpb_with_end": 40 / 80 / np.log(2),
        "gradient_norm": 0.25,
        "skipped_steps": 0,
        "weight/gate": 2.5,
        "bytes_per_patch": 10.0,
        "overflow": 0.2,
        "auxiliary/boundaries": 2.0,
        "boundaries/rate": 0.4,
        "boundaries/target": 12 / 50,
        "boundaries/precision": 8 / 20,
        "boundaries/recall": 8 / 16,
        "boundaries/f1": 16 / 36,
        "flops_per_byte/computed": 2 * 100 / 80,
        "flops_per_byte/needed": 2 * 40 / 80,
        "patch_length/1": 0.0,
        "patch_length/2": 0.25,
        "patch_length/5-8": 0.75,
        "bytes_per_patch/eng": 4.0,
        "bytes_per_patch/rus": 8.0,
    }
    assert {name: scalars[name] for name in wanted} == pytest.approx(wanted)
    assert "bytes_per_patch/hin" not in scalars


def test_a_statistic_that_nobody_knows_is_recorded():
    metrics, own = step(), Statistic("of_my_own", "share")
    sums = dataclasses.replace(metrics.sums, statistics=(*metrics.sums.statistics, own(1, 4)))
    assert values(record(dataclasses.replace(metrics, sums=sums)))["of_my_own"] == 0.25


def test_a_skipped_step_counts_for_nothing_but_time():
    made = record(step(), step(nats=np.nan, skipped=1))
    assert made.steps == 2 and made.flops == 200
    assert values(made)["bpb_with_end"] == pytest.approx(0.5 / np.log(2))
    assert np.isnan(values(record(step(nats=np.nan, skipped=1)))["bpb"])


@pytest.mark.parametrize("again", [0, 1])
def test_a_saved_record_goes_on(again):
    saved = json.loads(json.dumps(record(step()).saved()))
    for _ in range(again):  # saved before there was a step
        saved = json.loads(json.dumps(Record.restored(saved).saved()))
    restored = Record.restored(saved)
    restored.add(step(nats=7.0), 100.0)
    wanted = record(step(), step(nats=7.0))
    assert jax.tree.all(jax.tree.map(np.array_equal, restored.sums, wanted.sums))
    assert (restored.steps, restored.flops) == (2, 200.0)


def test_a_record_with_other_statistics_begins_with_the_next_step():
    saved = json.loads(json.dumps(record(flat(step())).saved()))
    restored = Record.restored(saved)
    restored.add(step(nats=7.0), 100.0)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored.sums, record(step(nats=7.0)).sums))
    assert (restored.steps, restored.flops) == (1, 100.0)


def test_the_record_of_an_older_checkpoint_begins_anew():
    assert Record.restored({"steps": 3, "seconds": 1.0, "sums": {}, "flops": 2.0}).steps == 0


def test_a_flat_model_has_no_patches():
    scalars = values(record(flat(step())))
    assert not {"bytes_per_patch", "flops_per_byte/needed", "boundaries/rate"} & set(scalars)


def test_no_boundaries_break_nothing():
    scalars = values(record(step(made=0, patches=0)))
    assert scalars["boundaries/rate"] == scalars["boundaries/f1"] == 0
    assert scalars["bytes_per_patch"] == 0


def test_the_best_validation_is_the_least_and_the_first_of_equals():
    loop = LoopState()
    for step, bits in enumerate([2.0, math.nan, 1.5, 1.5, 1.7], 1):
        loop.validated(step, bits)
    assert (loop.best_step, loop.best_validation) == (3, 1.5)
    assert (loop.validated_step, loop.last_validation) == (5, 1.7)


def test_the_state_of_the_loop_is_restored_from_what_is_saved():
    loop = LoopState(bytes=3, flops=4.0, hooks_step=5, validation_identity="x")
    loop.validated(6, 1.25)
    loop.record.seconds = 7.0
    saved = json.loads(json.dumps(loop.saved()))
    assert LoopState.restored(saved).saved() == loop.saved()


def test_earlier_checkpoints_have_the_state_of_the_loop_in_their_provenance():
    assert LoopState.from_provenance({"converted_from": "google/byt5-small"}) is None
    first = {"bytes_seen": 3, "flops": 4.0, "validated_step": 2, "last_validation_bits": 1.5}
    loop = LoopState.from_provenance({**first, "best_validation_bits": 1.25, "record": {}})
    assert (loop.bytes, loop.flops, loop.hooks_step, loop.seconds) == (3, 4.0, 2, 0.0)
    assert (loop.last_validation, loop.best_validation, loop.validation_identity) == (
        1.5,
        1.25,
        None,
    )
