import io
import re

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from bytelm.training.metrics import display
from bytelm.training.metrics.display import Display, format_duration, format_metrics

VALUES = {
    "deleted_bytes": 0.3125,
    "bytes_per_patch": 4.3125,
    "gradient_norm": 0.91234,
    "learning_rate": 1e-3,
    "utilisation": 0.612,
    "flops_per_second": 312.4e9,
    "bytes_per_second": 1.94e6,
    "bpb": jnp.float32(2.1341),
}


def plain_console():
    return Console(file=io.StringIO(), width=40)


def terminal():
    return Console(
        file=io.StringIO(), force_terminal=True, force_interactive=True, width=120, height=20
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: `clock[0]` is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_known_metrics_come_first_with_units_and_others_follow():
    assert format_metrics(VALUES) == (
        "2.134 bpb  1.94 MB/s  312 GFLOP/s  61% of peak  4.31 B/patch  lr 1.0e-3"
        "  gradient norm 0.912  deleted bytes 0.3125"
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, ""),
        ({"bytes_per_second": 0.0}, "0.00 B/s"),
        ({"bytes_per_second": 999.9}, "1.00 kB/s"),
        ({"bytes_per_second": 99.97e3}, "100 kB/s"),
        ({"flops_per_second": 1.5e18}, "1.50 EFLOP/s"),
        ({"flops_per_second": float("nan")}, "nan FLOP/s"),
        ({"bpb": float("inf")}, "inf bpb"),
        ({"learning_rate": 0.0}, "lr 0.0e0"),
        ({"learning_rate": float("nan")}, "lr nan"),
        ({"skipped_steps": 3, "validation_bpb": 2.5}, "validation 2.500 bpb  skipped steps 3"),
        ({"overflow_rate": 1e-7}, "overflow rate 1e-07"),
    ],
)
def test_formats_at_the_edges(values, line):
    assert format_metrics(values) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0s"),
        (59.6, "1m00s"),
        (62, "1m02s"),
        (3 * 3600 + 7 * 60 + 59, "3h07m"),
        (2 * 86400 + 4 * 3600, "2d04h"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_without_a_terminal_each_update_is_one_plain_line(clock):
    console = plain_console()
    with Display(2000, console) as shown:
        shown.update(100, {"bpb": 3.0})
        clock[0] = 10.0
        shown.update(200, {"bpb": 2.134, "a_rather_long_name_of_a_statistic": 1.0})
        shown.message("[red]one[/red]\nline :smile: and " + "more " * 20)
    assert console.file.getvalue() == (
        "step 100/2000  3.000 bpb\n"
        "step 200/2000  2.134 bpb  a rather long name of a statistic 1  3m00s left\n"
        "[red]one[/red]\nline :smile: and " + "more " * 20 + "\n"
    )


def test_time_left_follows_the_recent_speed(clock):
    console = plain_console()
    with Display(1000, console) as shown:
        for step in range(1, 101):
            clock[0] += 60.0 if step <= 50 else 1.0
            shown.update(step, {})
    assert console.file.getvalue().splitlines()[-1] == "step 100/1000  15m00s left"


def test_a_resumed_run_does_not_count_the_steps_before(clock):
    console = plain_console()
    with Display(1000, console) as shown:
        shown.update(900, {})
        clock[0] = 30.0
        shown.update(910, {})
    assert console.file.getvalue().splitlines() == [
        "step 900/1000",
        "step 910/1000  4m30s left",
    ]


def test_on_a_terminal_the_latest_values_stay_and_messages_go_above(clock):
    console = terminal()
    with Display(2000, console) as shown:
        shown.update(100, {"validation_bpb": 2.5})
        clock[0] = 1.0
        shown.update(150, {"bpb": 2.25})
        shown.message("a sample")
    output = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    last = output[output.index("a sample") :]
    assert "step 150/2,000" in last and "37s left" in last
    assert "2.250 bpb  validation 2.500 bpb" in last


def test_an_error_inside_gives_the_terminal_back():
    console = terminal()
    with pytest.raises(KeyError), Display(10, console) as shown:
        shown.update(1, {})
        raise KeyError
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")


def test_samples_cannot_drive_the_terminal():
    console = plain_console()
    with Display(10, console) as shown:
        shown.message("a\x1b[2Jb\x00\x9b\tc\r\x7f é")
    assert console.file.getvalue() == "a␛[2Jb␀\ufffd        c␍\ufffd é\n"


def test_only_process_0_shows(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Display(10) as shown:
        shown.update(1, VALUES)
        shown.message("text")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with Display(10) as shown:
        shown.update(1, {"bpb": 8.0})
    assert capsys.readouterr().out == "step 1/10  8.000 bpb\n"
