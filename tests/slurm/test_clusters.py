"""docs/clusters.md: its SLURM commands run under a scheduler that stops and kills tasks."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest

from bytelm.cli.main import main
from tests.slurm.fake import FakeSlurm, Task, server

ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"^sbatch .*?[^\\]$", (ROOT / "docs/clusters.md").read_text(), re.M | re.S)
TINY = """
--model.width 16 --model.depth 1 --model.head-width 8 --data.sequence-length 32 --data.batch-size 4
--train.steps 1500 --train.log-every 5 --train.validation-rows 4 --train.sample-bytes 0
--train.no-tensorboard --mesh.data 1
""".split()
ABLATION = """
import dataclasses

from bytelm.experiments.ablation import Ablation
from bytelm.training.experiment import TrainConfig
from tests.experiments.toys import FLAT, experiment

base = dataclasses.replace(
    experiment(FLAT),
    train=TrainConfig(
        steps=16, log_every=1, checkpoint_every=8, validate_every=16, validation_rows=4,
        sample_bytes=0, tensorboard=False,
    ),
)
ablation = Ablation(
    base,
    {"low": {}, "high": {"optimizer.learning_rate": 0.02}},
    learning_rates=(0.5, 1.0),
)
"""
COMPARISON = """
from bytelm.data.config import DataConfig, Files
from bytelm.experiments.comparison import Comparison
from tests.experiments.toys import CONTENDERS

comparison = Comparison(
    title="Toys",
    contenders={"bytes": CONTENDERS["bytes"]},
    baseline="bytes",
    axis="raw_bytes",
    budgets=(300.0,),
    corpora={"books": DataConfig(Files(files=("books/*.jsonl",), held_out=0.2))},
    shard_bytes=32,
    timed_steps=0,
)
"""


def command(work: str) -> list[str]:
    """The arguments of the page's `sbatch` for a kind of work."""
    words = (shlex.split(text.replace("\\\n", " "))[1:] for text in COMMANDS)
    (found,) = (each for each in words if work in each or f"scripts/{work}.sbatch" in each)
    return found


@pytest.fixture(scope="module")
def socket(tmp_path_factory):
    with server(tmp_path_factory.mktemp("server")) as path:
        yield path


@pytest.fixture
def slurm(socket, tmp_path, monkeypatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    for name in "ab":
        lines = "".join(f'{{"text": "{name}{i}: it was the best of times. "}}\n' for i in range(60))
        Path(f"books/{name}.jsonl").write_text(lines)
    Path("patches.py").write_text(ABLATION)
    Path("contest.py").write_text(COMPARISON)
    return FakeSlurm(tmp_path, socket)


class Disturber:
    """Stops or kills tasks at moments of the work: when so many records are written.

    Moments, tasks, and whether a task gets SIGTERM or loses its node, follow from the seed.
    """

    def __init__(self, slurm: FakeSlurm, runs: Path, times: int, records: int, seed: int):
        self._slurm, self._runs = slurm, runs
        numbers = random.Random(seed)
        moments = sorted(numbers.sample(range(records), times))
        ways = [slurm.preempt, slurm.lose_node] * times
        numbers.shuffle(ways := ways[:times])
        self.left = [
            (moment, way, numbers.random()) for moment, way in zip(moments, ways, strict=True)
        ]

    def __call__(self, running: list[Task]) -> None:
        working = [task for task in running if self._slurm.is_working(task)]
        if self.left and working and recorded(self._runs) >= self.left[0][0]:
            _, way, place = self.left.pop(0)
            way(working[int(place * len(working))])


def recorded(runs: Path) -> int:
    """How many records and validations the runs in a folder have."""
    return sum(path.read_bytes().count(b"\n") for path in runs.glob("*/metrics.jsonl"))


def results(folder: Path) -> list:
    """What a report says, without times and speeds."""
    contenders = json.loads((folder / "report.json").read_text())["contenders"]
    for row in contenders:
        for holder in (row, *row["runs"]):
            for name in ("train_bytes_per_second", "compile_seconds", "training_seconds"):
                del holder["figures"][name]
    return contenders


def test_an_array_with_killed_tasks_ends_as_one_undisturbed_process(slurm):
    words = command("ablate")
    words[0], output = "--array=0-3", Path(words[-1])
    assert main([*words[2:-1], "alone"]) == 0
    tasks = slurm.sbatch(*words)
    disturber = Disturber(slurm, output, times=2, records=50, seed=1)
    slurm.run(disturber)
    assert not disturber.left
    assert [task.statuses[-1] for task in tasks] == [0] * 4

    log = "".join(map(slurm.log, tasks))
    assert "Traceback" not in log
    assert log.count(f"report: {output}/report.html\n") == 1  # written by the last one
    begun = re.findall(r"^(learning rate|run) \d of \d: (\S+), 16 steps$", log, re.M)
    # Two rates of two contenders are trained, and the better one of each is tested.
    assert len(set(begun)) == 6 and len(begun) <= 6 + 2
    for run in {name for _, name in begun}:
        lines = (output / run / "metrics.jsonl").read_text().splitlines()
        steps = [record["step"] for record in map(json.loads, lines) if "learning_rate" in record]
        assert steps == list(range(1, 17))  # no step was done by two at once

    assert results(output) == results(Path("alone"))


def test_a_preempted_run_and_a_comparison(slurm):
    run = slurm.sbatch(*command("slurm"), *TINY)
    words = command("compare")
    words[0], output = "--array=0-0", Path(words[-1])
    words[words.index("comparison/cpu")], words[words.index("DATA")] = "contest.py", "."
    comparison = slurm.sbatch(*words)

    def preempt_once(running: list[Task]) -> None:
        if run[0].starts == 1 and recorded(Path("runs")) and not Path("preempted").exists():
            slurm.preempt(run[0])
            Path("preempted").touch()

    slurm.run(preempt_once)
    assert run[0].statuses == [143, 0]
    assert "stopped on request; checkpoint of step" in slurm.log(run[0])
    assert "done; checkpoint of step 1500 in runs/books" in slurm.log(run[0])
    assert comparison[0].statuses == [0]
    rows = json.loads((output / "report.json").read_text())["contenders"]
    assert [row["state"] for row in rows] == ["done"]


def test_scripts_refuse_what_they_cannot_do(slurm):
    for arguments in (("scripts/slurm_array.sbatch", "train", "a"), ("scripts/slurm.sbatch", "a")):
        (task,) = slurm.sbatch(*arguments)
        slurm.run()
        assert task.statuses == [2] and "usage: sbatch" in slurm.log(task)
        slurm.tasks.clear()
