import json

import numpy as np
import pytest

from bytelm.training.metrics.record import Record, warnings

STEP = {
    "nats": 10.0,
    "bytes": 20,
    "symbols": 25,
    "patches": 4,
    "overflow": 1,
    "gradient_norm": 0.5,
    "skipped": 0,
    "skipped_in_row": 0,
    "auxiliary/boundaries": 50.0,
    "counted": 25,
    "boundaries": 5,
    "whitespace": 8,
    "whitespace_boundaries": 4,
    "wanted": 6.0,
    "patch_lengths": np.array([0, 1, 0, 3, 0, 0, 0]),
    "script_bytes": np.array([12, 8, 0]),
    "script_patches": np.array([3, 1, 0]),
}


def flops(patches):
    return 10.0 * patches


def record(*steps):
    made = Record()
    made.resume()
    for step in steps:
        made.add(step, 100.0)
    return made


def test_sums_are_divided_once():
    other = {**STEP, "nats": 30.0, "boundaries": 15, "bytes": 60, "gradient_norm": 0.25}
    scalars = record(STEP, other).scalars(flops, 1.0, ("eng", "rus", "hin"))
    wanted = {
        "bpb": 40 / 80 / np.log(2),
        "gradient_norm": 0.25,
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


def test_a_skipped_step_counts_for_nothing_but_time():
    bad = {**STEP, "nats": np.nan, "skipped": 1, "skipped_in_row": 1}
    assert record(STEP, bad).scalars(flops, 1.0, "abc")["bpb"] == pytest.approx(0.5 / np.log(2))


def test_a_saved_record_goes_on():
    saved = json.loads(json.dumps(record(STEP).saved()))
    restored = Record(**saved)
    restored.add(STEP, 100.0)
    wanted = record(STEP, STEP).scalars(flops, 1.0, "abc")
    for name, value in restored.scalars(flops, 1.0, "abc").items():
        if "second" not in name and name != "utilisation":
            assert value == pytest.approx(wanted[name])


def test_a_flat_model_has_no_patches():
    names = ("nats", "bytes", "symbols", "gradient_norm", "skipped", "skipped_in_row")
    scalars = record({name: STEP[name] for name in names}).scalars(flops, 1.0)
    assert not {"bytes_per_patch", "overflow", "boundaries/rate"} & set(scalars)


def test_no_boundaries_break_nothing():
    none = {**STEP, "patches": 0, "overflow": 0, "boundaries": 0, "whitespace_boundaries": 0}
    scalars = record(none).scalars(flops, 1.0, "abc")
    assert scalars["boundaries/rate"] == scalars["boundaries/f1"] == scalars["overflow"] == 0


def test_want_of_room_is_told_with_the_room_to_set():
    assert not warnings({"overflow": 0.009, "bytes_per_patch": 4.0}, 0.5, 6.0)
    assert not warnings({"overflow": 0.2, "bytes_per_patch": 5.5}, 0.05, 6.0)
    told = warnings({"overflow": 0.2, "bytes_per_patch": 5.5}, 0.5, 6.0)
    # 4 bytes for each patch that wanted room, and a tenth to spare.
    assert "20.0% of the patches" in told["overflow"] and "to 4.00 or less" in told["overflow"]
    # There is room for the mean row already, so it is some rows that need more.
    told = warnings({"overflow": 0.02, "bytes_per_patch": 5.5}, 0.5, 3.0)
    assert "to 2.40 or less" in told["overflow"]


@pytest.mark.parametrize("rate", [0.0, 0.004, 0.95])
def test_collapsed_boundaries_are_told_once_training_is_under_way(rate):
    assert "collapsed" in warnings({"boundaries/rate": rate}, 0.5)["collapse"]
    assert not warnings({"boundaries/rate": rate}, 0.05)
    assert not warnings({"boundaries/rate": 0.2}, 0.5)
