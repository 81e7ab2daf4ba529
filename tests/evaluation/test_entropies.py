"""Entropies of a text, and thresholds found for a mean length of patches."""

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START
from bytelm.evaluation.entropies import (
    EntropySample,
    collapse,
    find_limit,
    histogram,
    plot_entropies,
    print_entropies,
)
from bytelm.patching.entropy import EntropyRule, rounded

TEXT = b"The owl,  at night\nsaw 3 wonders; "


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    ids = np.tile(np.frombuffer(TEXT, np.uint8), 40)[:1200].reshape(6, 200).astype(np.int32)
    ids[:, 0], ids[:, -1] = START, END
    entropies = np.asarray(rounded(rng.uniform(0.1, 5, ids.shape).astype(np.float32)))
    return EntropySample(ids, np.ones_like(ids), entropies)


@pytest.mark.parametrize(
    "rule, limit",
    [
        (EntropyRule(0.0), "threshold"),
        (EntropyRule(0.0, rise=0.2, longest=9), "threshold"),
        (EntropyRule(rise=0.0), "rise"),
    ],
)
def test_the_limit_gives_the_wanted_mean(sample, rule, limit):
    found = find_limit(sample, rule, 4.5, limit)
    mean = sample.num_bytes / len(sample.patches(found).sizes)
    assert mean == pytest.approx(4.5, abs=0.1)
    # Between two multiples of 1/1024, so that rounding does not decide.
    assert getattr(found, limit) * 1024 % 1 == 0.5
    assert sample.starts(found)[:, :2].all()


def test_a_mean_that_no_threshold_gives(sample):
    with pytest.raises(UserError, match=r"have from 0.99 to 5.\d+ bytes in the mean, whatever th"):
        find_limit(sample, EntropyRule(0.0, longest=6), 20.0, "threshold")


def test_single_bytes_and_whole_rows_are_warned_of(sample, capsys):
    few = "half of the rows have 0 patches or fewer"
    for threshold, warning in ((0.0, "nearly every byte is a patch"), (7.0, few)):
        rule = EntropyRule(threshold)
        assert str(collapse(sample, sample.starts(rule))).startswith(warning)
        print_entropies(sample, rule, 0)
        assert warning in capsys.readouterr().out
    assert collapse(sample, sample.starts(EntropyRule(3.0))) is None


def test_what_is_printed_and_drawn(sample, capsys, tmp_path):
    rule = EntropyRule(2.5)
    print_entropies(sample, rule, 1)
    printed = capsys.readouterr().out
    assert printed.count("<- threshold") == 1 and "2.5000" in printed
    first = next(
        line for line in printed.splitlines() if "|" in line and "owl" in line.replace("|", "")
    )
    assert first.replace("|", "").startswith("he owl,  at night\\nsaw 3")
    shares, edges = histogram(sample)
    assert shares.sum() == pytest.approx(1) and edges[0] == 0
    plot_entropies(sample, [rule], tmp_path / "plot.svg")
    assert "bytes per patch" in (tmp_path / "plot.svg").read_text()
    with pytest.raises(UserError, match=r"--plot .* cannot be written"):
        plot_entropies(sample, [rule], tmp_path / "none" / "plot.png")
