"""Runs at an address of an S3 store on this machine: killed, of two processes, and compared."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from bytelm.cli.main import main
from bytelm.core.files import create
from bytelm.core.places import objects, place
from bytelm.experiments.compare import run_comparison
from bytelm.training.checkpoints import staging
from bytelm.training.checkpoints.checkpoint import load_model
from tests.experiments import conftest
from tests.slurm.test_clusters import results
from tests.training import test_processes
from tests.training.test_processes import (
    ROOT,
    TINY,
    assert_same,
    finish,
    free_port,
    params,
    start,
    wait_for,
)

pytestmark = pytest.mark.buckets
pytest.importorskip("s3fs")
pytest.importorskip("moto")

BUCKET = "s3://bucket"
text, comparison, root = test_processes.text, conftest.comparison, conftest.root
"""Fixtures."""


@pytest.fixture(scope="module", autouse=True)
def store():
    """The store, for this process and those that it starts."""
    port = free_port()
    server = [sys.executable, "-m", "moto.server", "-p", str(port)]
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    with pytest.MonkeyPatch.context() as patch, open(os.devnull, "wb") as nowhere:
        for name, value in settings.items():
            patch.setenv(name, value)
        from fsspec.config import conf, set_conf_env

        set_conf_env(conf)
        process = subprocess.Popen(server, stdout=nowhere, stderr=nowhere)
        try:
            system = place(BUCKET).fs
            for _ in range(100):
                try:
                    system.mkdir("bucket")
                    break
                except Exception:
                    assert process.poll() is None

                    time.sleep(0.2)
            yield
        finally:
            process.kill()
            process.wait()


def test_the_store_decides_who_creates_an_object(monkeypatch):
    path = place(f"{BUCKET}/lock")
    monkeypatch.setattr(type(path.fs), "exists", lambda *_: False)  # as two that ask at once
    create(path, b"first")
    with pytest.raises(FileExistsError):
        create(path, b"second")
    assert path.read_bytes() == b"first"


def test_a_killed_run_resumes_elsewhere_and_ends_as_the_uninterrupted_one(text, tmp_path):
    steps = ["--train.steps", "24", "--train.log-every", "2", "--train.checkpoint-every", "1"]

    def run(where: str, *options: str) -> subprocess.Popen:
        return start([*text, *steps, "--run-dir", where, *options], 1)

    finish(run(str(tmp_path / "whole")))
    where = f"{BUCKET}/killed"
    killed = run(where)
    wait_for(killed, "step 10/24")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert ".lock" in objects(place(where))
    assert "resuming from step" in finish(run(where, "--resume"))
    assert_same(place(where), tmp_path / "whole")
    assert ".lock" not in objects(place(where))


COUNTED = """
import sys
from bytelm.cli.main import main
from bytelm.training.checkpoints import staging
fetch = staging.fetch
def counted(source, target, names):
    fetch(source, target, names)
    if target.name in staging.ARRAYS:
        print("fetched", sum((target / name).stat().st_size for name in names))
staging.fetch = counted
sys.exit(main(["train", *sys.argv[1:]]))
"""
"""A program that says how many bytes of arrays it fetches."""


@pytest.mark.parametrize("disk", ["shared", "own"])
def test_two_processes_train_as_one(text, tmp_path, disk, monkeypatch):
    port, where = free_port(), f"{BUCKET}/{disk}"
    mesh = ["--mesh.data", "1", "--mesh.fsdp", "2", "--mesh.tensor", "1"]
    width = ["--model.width", "64"]  # smaller arrays are not divided
    common = [*text, "--train.log-every", "1", "--train.checkpoint-every", "2", *mesh, *width]

    def run_two(steps: int, *options: str) -> list[subprocess.Popen]:
        arguments = [*common, "--train.steps", str(steps), "--run-dir", where, *options]
        arguments += ["--coordinator", f"localhost:{port}", "--num-processes", "2"]
        arguments += ["--optimizer.schedule", "constant"]
        processes = []
        for number in range(2):
            copies = tmp_path / (disk if disk == "shared" else str(number))
            copies.mkdir(exist_ok=True)
            monkeypatch.setenv(staging.VARIABLE, str(copies))
            program = "-c", COUNTED
            options = [*arguments, "--process-id", str(number)]
            processes.append(start(options, 1, program=program))
        return processes

    for process in run_two(4):
        finish(process)
    assert load_model(place(where)).step == 4
    joined = [name for name in objects(place(where)) if "ocdbt" in name]
    assert bool(joined) == (disk == "shared")
    arrays = place(where) / "checkpoints" / "4"
    total = sum(arrays.fs.du((arrays / item).path) for item in staging.ARRAYS)
    for process in run_two(6, "--resume", "--allow-config-change"):
        fetched = sum(map(int, re.findall(r"^fetched (\d+)$", finish(process), re.M)))
        assert total / 4 < fetched < 0.75 * total
    single = [*common, "--train.steps", "6", "--optimizer.schedule", "constant"]
    options = [*single, "--run-dir", str(tmp_path / "one")]
    assert main(["train", "transformer_tiny", *TINY, *options]) == 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4),
        params(place(where)),
        params(tmp_path / "one"),
    )


def test_text_a_comparison_and_its_table_in_a_bucket(
    capsys, comparison, root, tmp_path, monkeypatch
):
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path))
    for file in root.glob("*.txt"):
        (place(f"{BUCKET}/text") / file.name).write_bytes(file.read_bytes())
    pack = ["data", "pack", "--data.files", f"{BUCKET}/text/*.txt", "--processes", "2"]
    assert main([*pack, "--data.held-out", "0", "--data.cache-dir", f"{BUCKET}/cache"]) == 0
    packed = {name.split("/")[1] for name in objects(place(f"{BUCKET}/cache/shards"))}
    assert packed
    small = dataclasses.replace(
        comparison,
        contenders={"bpe": comparison.contenders["bpe"]},
        budgets=comparison.budgets[:1],
        learning_rates=(1.0,),
        robustness=None,
        adaptation={},
        timed_steps=0,
    )
    output = place(f"{BUCKET}/comparison")
    for _ in range(2):  # the second finds everything done
        assert run_comparison(small, output, root=place(f"{BUCKET}/text")) == 0
    found = objects(output)
    (run,) = {name.split("/")[1] for name in found if name.startswith("runs/")}
    assert {"report.html", "runs.csv", f"runs/{run}/test_report.json"} <= {*found}
    assert any(name.startswith("tokenizers/english-bpe") for name in found)
    assert not any(name.endswith("lock") for name in found)
    capsys.readouterr()
    assert main(["results", f"{BUCKET}/comparison"]) == 0
    assert run in capsys.readouterr().out


ABLATION = """
import dataclasses

from bytelm.experiments.ablation import Ablation
from bytelm.training.experiment import TrainConfig
from tests.experiments.toys import FLAT, experiment

train = TrainConfig(
    steps=16, log_every=1, checkpoint_every=2, validate_every=16, validation_rows=4,
    sample_bytes=0, tensorboard=False,
)
base = dataclasses.replace(experiment(FLAT), train=train)
changes = {"low": {}, "high": {"optimizer.learning_rate": 0.02}}
ablation = Ablation(base, changes, learning_rates=(0.5, 1.0))
"""
COMPARISON = """
import dataclasses
from pathlib import Path

from bytelm.experiments.comparison import Comparison
from tests.experiments.toys import CONTENDERS, corpus

comparison = Comparison(
    title="Toys",
    contenders={name: CONTENDERS[name] for name in ("bpe", "bytes")},
    baseline="bpe",
    axis="raw_bytes",
    budgets=(2000.0,),
    corpora={"english": dataclasses.replace(corpus("english", Path()), cache_dir=None)},
    learning_rates=(0.5, 1.0),
    shard_bytes=32,
    timed_steps=0,
)
"""


@pytest.mark.parametrize("kind", ["ablate", "compare"])
def test_processes_share_runs_and_take_up_those_of_one_that_is_killed(root, tmp_path, kind):
    (tmp_path / "toys.py").write_text(ABLATION if kind == "ablate" else COMPARISON)
    command = [kind, str(tmp_path / "toys.py"), *(("--root", str(root)) * (kind == "compare"))]
    assert main([*command, "--output", str(tmp_path / "alone")]) == 0
    output = f"{BUCKET}/shared-{kind}"

    def work(name: str) -> subprocess.Popen:
        with (tmp_path / name).open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bytelm", *command, "--output", output],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    killed = work("killed")
    while "step 8/" not in (tmp_path / "killed").read_text():
        assert killed.poll() is None, (tmp_path / "killed").read_text()
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    (left,) = [name for name in objects(place(output)) if name.endswith("/.lock")]
    others = [work("first"), work("second")]
    assert [process.wait(timeout=900) for process in others] == [0, 0]

    found = place(output)
    assert not any(name.endswith("lock") for name in objects(found))
    log = "".join((tmp_path / name).read_text() for name in ("killed", "first", "second"))
    assert "Traceback" not in log
    assert log.count(f"report: {output}/report.html\n") == 1  # written by the last one
    begun = re.findall(r"^(learning rate|run) \d of \d: (\S+), \d+ steps$", log, re.M)
    # Two rates of two contenders are trained, and the better one of each is tested.
    assert len({*begun}) == 6 and len(begun) == 7
    assert [name in left for _, name in begun].count(True) >= 2
    runs = found if kind == "ablate" else found / "runs"
    for name in {name for _, name in begun}:
        saved = json.loads((runs / name / "config.json").read_text())
        records = map(json.loads, (runs / name / "metrics.jsonl").read_text().splitlines())
        steps = [record["step"] for record in records if "learning_rate" in record]
        assert steps == sorted({*steps}) and steps[-1] == saved["train"]["steps"]
    assert results(found) == results(tmp_path / "alone")
