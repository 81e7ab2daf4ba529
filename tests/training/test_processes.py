"""Real processes: two that train as one, and one that is stopped or killed at any moment."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from bytelm.cli.main import main
from bytelm.training.checkpoints.checkpoint import load_model
from bytelm.training.distributed import join

ROOT = Path(__file__).parents[2]
TINY = """
--model.width 16 --model.depth 2 --model.head-width 8 --data.sequence-length 32
--data.batch-size 8 --data.held-out 0.0 --train.validation-rows 8
--train.validate-every 1000 --train.sample-bytes 0 --train.no-tensorboard
""".split()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> list[str]:
    """Options that name a small text."""
    folder = tmp_path_factory.mktemp("text")
    words = np.random.default_rng(0).choice(["to", "be", "or", "not", "\n"], 2000)
    for name in ("train.txt", "valid.txt"):
        (folder / name).write_text(" ".join(words))
    return [
        *("--data.files", str(folder / "train.txt")),
        *("--data.validation-files", str(folder / "valid.txt")),
        *("--data.cache-dir", str(folder / "cache")),
    ]


def start(
    options: list[str],
    devices: int,
    *,
    limits: str = "true",
    program: tuple[str, ...] = ("train.py",),
) -> subprocess.Popen:
    """A training process on some virtual devices; `limits` is a shell command that sets limits."""
    flags = os.environ["XLA_FLAGS"].split()
    flags = [flag for flag in flags if "device_count" not in flag]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    train = [sys.executable, *program, "transformer_tiny", *TINY, *options]
    return subprocess.Popen(
        ["sh", "-c", f'{limits}; exec "$@"', "sh", *train],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default", "XLA_FLAGS": " ".join(flags)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, status: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def wait_for(process: subprocess.Popen, words: str) -> None:
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"the run ended without saying {words!r}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def params(run: Path) -> dict:
    return jax.tree.map(np.asarray, load_model(run).params)


def assert_same(a: Path, b: Path) -> None:
    assert load_model(a).step == load_model(b).step
    jax.tree.map(np.testing.assert_array_equal, params(a), params(b))


def test_stopped_and_killed_runs_end_as_the_uninterrupted_one(text, tmp_path, capsys):
    options = ["--train.steps", "24", "--train.log-every", "2", "--train.checkpoint-every", "1"]
    options += [*text, "--mesh.data", "1", "--run-dir"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(["train", "transformer_tiny", *TINY, *options, str(whole)]) == 0

    stopped = start([*options, str(run)], 8)  # as many as this process has, for the same bits
    wait_for(stopped, "step 4/24")
    stopped.send_signal(signal.SIGTERM)
    assert "stopped on request" in finish(stopped, 143)

    # A checkpoint is being written at nearly every moment, so that the kill tears one.
    killed = start([*options, str(run), "--resume"], 8)
    wait_for(killed, "step 12/24")
    killed.kill()
    killed.communicate()
    assert load_model(run).step >= 8

    capsys.readouterr()
    assert main(["train", "transformer_tiny", *TINY, *options, str(run), "--resume"]) == 0
    assert "resuming from step" in capsys.readouterr().out
    assert_same(run, whole)


def test_full_disk_stops_the_run_and_keeps_the_last_checkpoint(text, tmp_path):
    run_dir = tmp_path / "run"
    options = [*text, "--run-dir", str(run_dir), "--train.checkpoint-every", "2"]
    assert main(["train", "transformer_tiny", *TINY, *options, "--train.steps", "2"]) == 0
    before = params(run_dir)

    more = [*options, "--train.steps", "6", "--resume", "--allow-config-change"]
    output = finish(start(more, 1, limits="ulimit -f 16"), 2)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "could not be written" in error and "completed before are intact" in error
    jax.tree.map(np.testing.assert_array_equal, params(run_dir), before)

    assert main(["train", "transformer_tiny", *TINY, *more]) == 0
    assert load_model(run_dir).step == 6


def test_two_processes_train_as_one(text, tmp_path):
    port = free_port()
    mesh = ["--mesh.data", "1", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    common = [*text, "--train.log-every", "1", "--train.checkpoint-every", "2"]

    def run_two(steps: int, *options: str) -> list[subprocess.Popen]:
        arguments = [*common, *mesh, "--train.steps", str(steps), *options]
        arguments += ["--run-dir", str(tmp_path / "two"), "--coordinator", f"localhost:{port}"]
        arguments += ["--num-processes", "2", "--optimizer.schedule", "constant"]
        arguments += ["--train.sample-bytes", "4"]
        return [start([*arguments, "--process-id", str(i)], 2) for i in range(2)]

    first, second = (finish(process) for process in run_two(4))
    assert "step 4/4" in first
    assert "step 4/4" not in second

    # A process with four devices resumes there; one that trained all steps agrees.
    single = [*common, *mesh, "--train.steps", "6", "--optimizer.schedule", "constant"]
    resumed = [*single, "--run-dir", str(tmp_path / "two"), "--resume", "--allow-config-change"]
    for options in (resumed, [*single, "--run-dir", str(tmp_path / "one")]):
        assert main(["train", "transformer_tiny", *TINY, *options]) == 0
    jax.tree.map(
        # Gloo adds the shards up in another order than one process does.
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4),
        params(tmp_path / "two"),
        params(tmp_path / "one"),
    )


def test_sigterm_to_one_process_stops_both_at_one_step(text, tmp_path):
    port = free_port()
    options = [*text, "--train.steps", "100000", "--train.log-every", "5"]
    options += ["--run-dir", str(tmp_path / "run"), "--coordinator", f"localhost:{port}"]
    options += ["--num-processes", "2", "--train.checkpoint-every", "100000"]
    processes = [start([*options, "--process-id", str(i)], 1) for i in range(2)]
    wait_for(processes[0], "step 5/")
    processes[1].send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert "stopped on request" in finish(processes[0], 143)
    finish(processes[1], 143)
    assert time.monotonic() - started < 120
    assert load_model(tmp_path / "run").step >= 5


ALONE = """
import sys
from bytelm.training import distributed
distributed.JOIN_LIMIT = 1
distributed.join(sys.argv[1], 2, 0)
"""


def test_jax_leaves_sigterm_to_the_run(monkeypatch):
    left = []
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)  # it decides on settings for good
    monkeypatch.setattr(
        jax.distributed,
        "initialize",
        lambda *_, **__: left.append(not jax.config.jax_enable_preemption_service),
    )
    join("127.0.0.1:1", 2, 0)
    assert left == [True]


def test_a_process_does_not_wait_for_ever_for_others_to_join():
    alone = [sys.executable, "-c", ALONE, f"localhost:{free_port()}"]
    ended = subprocess.run(alone, capture_output=True, text=True, timeout=120)
    waiting, error = ended.stderr.splitlines()
    assert waiting == "waiting for the other processes of this run to join"
    assert error.startswith("error: process 0 of 2 has waited 1 seconds for the others to join;")
    assert ended.returncode == 2


def test_a_process_that_is_killed_ends_the_others_with_a_sentence(text, tmp_path):
    options = [*text, "--train.steps", "100000", "--train.log-every", "5"]
    options += ["--run-dir", str(tmp_path / "run"), "--coordinator", f"localhost:{free_port()}"]
    options += ["--num-processes", "2", "--train.checkpoint-every", "5"]
    processes = [start([*options, "--process-id", str(i)], 1) for i in range(2)]
    wait_for(processes[0], "step 10/")
    processes[1].kill()
    processes[1].communicate()
    output = finish(processes[0], 1)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "another process of this run ended" in error and "process 0 of 2" in error
    assert "Traceback" not in output and "Check failure" not in output
    assert load_model(tmp_path / "run").step >= 5
