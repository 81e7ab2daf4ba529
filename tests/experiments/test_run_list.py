"""Lists of runs: what is found, in which order, and how it is shown."""

import json
import os
import time

import pytest

from bytelm.experiments.run_list import as_json, as_table, chosen, find_runs, write_plan
from bytelm.training.run_directory import LOCK
from tests.training.test_run_status import make_run, note


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An ablation with a planned run, in a folder with other runs and things that are none."""
    top = tmp_path_factory.mktemp("top")
    make_run(top / "ablations" / "words" / "a", reached=10, saved=10)
    make_run(top / "ablations" / "words" / "b", reached=3)
    note(top / "ablations" / "words" / "b")
    write_plan(
        top / "ablations" / "words",
        {top / "ablations" / "words" / name: 10 for name in ("a", "b", "c")},
    )
    make_run(top / "alone [1]", reached=7, saved=5, age=10.0)
    make_run(top / "alone [1]" / "after_step_5", reached=7)  # set aside: part of its run
    (top / "text").mkdir()
    (top / "text" / "config.json").write_text("{}")
    (top / "text" / LOCK).touch()
    (top / "again").symlink_to(top)
    return top


def test_runs_at_any_depth(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    found = {run.run.name: run for run in find_runs(folder)}
    assert {name: run.state for name, run in found.items()} == {
        "a": "done",
        "b": "failed",
        "c": "waiting",
        "alone [1]": "stopped",
    }
    assert found["c"].steps == 10 and found["c"].step == 0
    assert [run.run.name for run in find_runs(folder / "alone [1]")] == ["alone [1]"]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_filters_and_orders(folder):
    runs = list(find_runs(folder))

    def names(**options):
        return [run.run.name for run in chosen(runs, **options)]

    assert names() == ["a", "b", "c", "alone [1]"]
    assert names(reverse=True) == ["alone [1]", "c", "b", "a"]
    assert names(states=("done", "failed")) == ["a", "b"]
    assert names(names=("words",)) == ["a", "b", "c"]
    assert names(names=("*/[ac]", "[1]")) == ["a", "c", "alone [1]"]
    assert names(order="state") == ["c", "alone [1]", "b", "a"]
    assert names(order="step") == ["a", "alone [1]", "b", "c"]
    assert names(order="speed")[:3] == ["a", "alone [1]", "b"]
    assert names(order="best") == ["a", "alone [1]", "b", "c"]  # those without one come last
    assert names(order="age")[0] == "alone [1]" and names(order="age")[-1] == "c"


def test_a_table(folder):
    head, *lines, last = as_table(list(find_runs(folder))).splitlines()
    assert head.split() == ["run", "state", "step", "best", "speed", "progress", "last", "error"]
    a, b, c, alone = lines
    assert "done     10 of 10  2.2500  100 B/s" in a and a.endswith("ago")
    assert b.endswith("step 6: the disk is full")
    assert c.endswith("waiting  0 of 10")
    assert alone.startswith(str(folder / "alone [1]"))
    assert last == "4 runs: 1 waiting, 1 stopped, 1 failed, 1 done"


def test_json(folder):
    (found,) = json.loads(as_json(chosen(list(find_runs(folder)), states=("failed",))))
    assert found.pop("age_seconds") == pytest.approx(time.time() - found["progress"], abs=5)
    assert (found["run"], found["error"]) == (
        str(folder / "ablations/words/b"),
        "the disk is full",
    )
    assert set(found) == set(
        "run state step steps best bytes_per_second progress error error_step error_time".split()
    )


def test_a_plan_that_is_damaged_hides_nothing(tmp_path):
    make_run(tmp_path / "a", reached=3)
    for content in ("", "[]", '{"runs": [1]}', '{"runs": [{"run": "b"}]}'):
        (tmp_path / "plan.json").write_text(content)
        assert [run.run.name for run in find_runs(tmp_path)] == ["a"]


def test_a_thousand_runs_take_seconds(tmp_path):
    make_run(tmp_path / "0", reached=10, saved=10)
    for i in range(1, 300):
        (tmp_path / str(i)).mkdir()
        for name in ("config.json", "metrics.jsonl", "run.json"):
            os.link(tmp_path / "0" / name, tmp_path / str(i) / name)
        (tmp_path / str(i) / "checkpoints" / "10").mkdir(parents=True)
    begin = time.process_time()
    assert sum(run.state == "done" for run in find_runs(tmp_path)) == 300
    assert time.process_time() - begin < 3
