import io
import re

import jax
import pytest
from rich.console import Console

from bytelm.core.figure import Figure
from bytelm.training.metrics import display
from bytelm.training.metrics.display import Display, format_duration, format_figures

FIGURES = [
    Figure("bpb", 2.1341, "bpb"),
    Figure("bpb_with_end", 2.2, "bpb with END"),
    Figure("bytes_per_patch", 4.3125, "B/patch"),
    Figure("patch_length/1", 0.5, "share"),
    Figure("deleted_bytes", 0.3125),
    Figure("bytes_per_second", 1.94e6, "B/s"),
    Figure("flops_per_second", 312.4e9, "FLOP/s"),
    Figure("utilisation", 0.612, "of peak"),
    Figure("gradient_norm", 0.91234),
    Figure("skipped_steps", 3.0, "count"),
    Figure("learning_rate", 1e-3, "lr"),
]


def bits(value, name="bpb"):
    return [Figure(name, value, "bpb")]


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


def test_figures_have_their_units_and_details_are_left_out():
    assert format_figures(FIGURES) == (
        "2.134 bpb  2.200 with END  4.31 B/patch  deleted bytes 0.3125  1.94 MB/s  312 GFLOP/s"
        "  61% of peak  gradient norm 0.9123  skipped steps 3  lr 1.0e-3"
    )


@pytest.mark.parametrize(
    ("figure", "line"),
    [
        (Figure("bytes_per_second", 0.0, "B/s"), "0.00 B/s"),
        (Figure("bytes_per_second", 99.97e3, "B/s"), "100 kB/s"),
        (Figure("flops_per_second", 1.5e18, "FLOP/s"), "1.50 EFLOP/s"),
        (Figure("flops_per_second", float("nan"), "FLOP/s"), "nan FLOP/s"),
        (Figure("bpb", float("inf"), "bpb"), "inf bpb"),
        (Figure("learning_rate", 0.0, "lr"), "lr 0.0e0"),
        (Figure("learning_rate", float("nan"), "lr"), "lr nan"),
        (Figure("validation_bpb", 2.5, "bpb"), "validation 2.500 bpb"),
        (Figure("overflow_rate", 1e-7), "overflow rate 1e-07"),
    ],
)
def test_formats_at_the_edges(figure, line):
    assert format_figures([figure]) == line
    assert format_figures([]) == ""


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
        shown.update(100, bits(3.0))
        clock[0] = 10.0
        shown.update(200, [*bits(2.134), Figure("a_rather_long_name_of_a_statistic", 1.0)])
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
            shown.update(step, [])
    assert console.file.getvalue().splitlines()[-1] == "step 100/1000  15m00s left"


def test_a_resumed_run_does_not_count_the_steps_before(clock):
    console = plain_console()
    with Display(1000, console) as shown:
        shown.update(900, [])
        clock[0] = 30.0
        shown.update(910, [])
    assert console.file.getvalue().splitlines() == [
        "step 900/1000",
        "step 910/1000  4m30s left",
    ]


def test_on_a_terminal_the_latest_values_stay_and_messages_go_above(clock):
    console = terminal()
    with Display(2000, console) as shown:
        shown.update(100, bits(2.5, "validation_bpb"))
        clock[0] = 1.0
        shown.update(150, bits(2.25))
        shown.message("a sample")
    output = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    last = output[output.index("a sample") :]
    assert "step 150/2,000" in last and "37s left" in last
    assert last.index("2.250 bpb") < last.index("validation 2.500 bpb")


def test_an_error_inside_gives_the_terminal_back():
    console = terminal()
    with pytest.raises(KeyError), Display(10, console) as shown:
        shown.update(1, [])
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
        shown.update(1, FIGURES)
        shown.message("text")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with Display(10) as shown:
        shown.update(1, bits(8.0))
    assert capsys.readouterr().out == "step 1/10  8.000 bpb\n"
