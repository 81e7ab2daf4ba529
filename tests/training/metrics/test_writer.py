import errno
import json
import sys
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from bytelm.core.errors import UserError
from bytelm.core.growing_file import GrowingFile
from bytelm.training.metrics.writer import MetricsWriter, read_records


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_steps(run_dir, steps, **options):
    with MetricsWriter(run_dir, {}, tensorboard=False, **options) as writer:
        for step in steps:
            writer.write(step, {"loss": float(step)})
            writer.write_text(step, "sample", f"text {step}")


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    with MetricsWriter(tmp_path, {}, tensorboard=False) as writer:
        writer.write(1, {"loss": jnp.float32(2.5), "bytes_seen": 2**60, "rate": np.float64(0.1)})
        assert lines(tmp_path / "metrics.jsonl") == [
            {"step": 1, "loss": 2.5, "bytes_seen": 2**60, "rate": 0.1}
        ]
        writer.write_text(1, "sample", 'é\n"\x00')
        assert lines(tmp_path / "samples.jsonl") == [{"step": 1, "sample": 'é\n"\x00'}]


def test_values_that_are_not_finite_keep_the_file_valid_json(tmp_path):
    with MetricsWriter(tmp_path, {}, tensorboard=False) as writer:
        writer.write(3, {"loss": float("nan"), "gradient_norm": jnp.inf})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 3, "loss": null, "gradient_norm": null}\n'
    )


def test_a_resumed_run_has_every_step_once(tmp_path):
    write_steps(tmp_path, [0, 2, 4, 6, 8])
    write_steps(tmp_path, [6, 8, 10], start_step=4)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert [line["step"] for line in lines(tmp_path / name)] == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3, "loss": 1.0}', "\0\0\0"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    write_steps(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    write_steps(tmp_path, [3], start_step=5)
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": step, "loss": float(step)} for step in (1, 2, 3)
    ]


def test_a_cut_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    write_steps(tmp_path, [1, 2, 3])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def disk_full(*paths):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", disk_full)
    with pytest.raises(OSError, match="disk full"):
        write_steps(tmp_path, [], start_step=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def read_events(path):
    """Events of a TensorBoard file: records of an 8-byte length, 4 bytes, the event, 4 bytes."""
    data, events = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def test_tensorboard_gets_numbers_and_texts_and_the_step_resumed_from(tmp_path):
    with MetricsWriter(tmp_path, {}, start_step=4) as writer:
        writer.write(5, {"loss": 2.5, "rate": float("nan")})
        writer.write_text(5, "sample", "<b> & é")
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = read_events(path)
    assert any(event.step == 5 and event.HasField("session_log") for event in events)
    values = {value.tag: value for event in events for value in event.summary.value}
    assert values["loss"].simple_value == 2.5
    assert np.isnan(values["rate"].simple_value)
    text = values["sample/text_summary"].tensor.string_val[0].decode()
    assert text == "<pre>&lt;b&gt; &amp; é</pre>"


def test_wandb_keeps_its_run_over_a_resume(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finish")

    def init(**options):
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Html=str))
    for step in (1, 2):
        with MetricsWriter(
            tmp_path, {"width": 8}, start_step=step - 1, tensorboard=False, wandb_project="p"
        ) as writer:
            writer.write(step, {"loss": 2.0})
            writer.write_text(step, "sample", "<s>")
    first, second = (call for call in calls if isinstance(call, dict))
    assert first == second
    assert first["config"] == {"width": 8} and first["resume"] == "allow" and first["id"]
    assert calls[1:4] == [(1, {"loss": 2.0}), (1, {"sample": "<pre>&lt;s&gt;</pre>"}), "finish"]


def test_wandb_missing_is_said_before_anything_is_cut(tmp_path, monkeypatch):
    write_steps(tmp_path, [1, 2])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        MetricsWriter(tmp_path, {}, tensorboard=False, wandb_project="p")
    assert len(lines(tmp_path / "metrics.jsonl")) == 2


def test_what_cannot_be_written_is_a_warning_once_and_follows_later(tmp_path, monkeypatch):
    write, room = GrowingFile.flush, [False]

    def full(self):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self)

    monkeypatch.setattr(GrowingFile, "flush", full)
    with pytest.warns(UserWarning) as warned, MetricsWriter(tmp_path, {}) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 1.0})
            writer.write_text(step, "sample", "text")
        room[0] = True
        writer.write(3, {"loss": 1.0})
    assert sorted(str(warning.message) for warning in warned) == [
        f"{name} cannot be written now (No space left on device); the run goes on"
        for name in ("metrics.jsonl", "tensorboard")
    ]
    for name, steps in (("metrics.jsonl", [1, 2, 3]), ("samples.jsonl", [1, 2])):
        assert [line["step"] for line in lines(tmp_path / name)] == steps


def test_wandb_that_is_away_is_a_warning(tmp_path, monkeypatch):
    class Run:
        def log(self, values, step):
            raise ConnectionError("no route to host")

        def finish(self):
            raise RuntimeError("the service ended")

    wandb = SimpleNamespace(init=lambda **options: Run(), Html=str)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with (
        pytest.warns(UserWarning, match=r"Weights & Biases .* \(no route to host\)"),
        MetricsWriter(tmp_path, {}, tensorboard=False, wandb_project="p") as writer,
    ):
        writer.write(1, {"loss": 1.0})
    assert len(lines(tmp_path / "metrics.jsonl")) == 1


def test_tensorboard_does_not_wait_for_a_clock_that_was_set_back(tmp_path, monkeypatch):
    with MetricsWriter(tmp_path, {}) as writer:
        writer.write(1, {"loss": 1.0})
        earlier = time.time() - 400 * 86400
        monkeypatch.setattr(time, "time", lambda: earlier)
        for step in range(2, 40):
            writer.write(step, {"loss": 1.0})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert read_events(path)[-1].step == 39


GOOD = b'{"step": 1, "bpb": 2.5}\n'


@pytest.mark.parametrize(
    "line",
    [b"[1]", b"3", b"null", b"{}", b'{"step": "2"}', b'{"step": 2.5}', b'{"step": 2', b"\xff", b""],
)
def test_lines_that_are_no_record_are_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    assert read_records(path) == [{"step": 1, "bpb": 2.5}] * 2
