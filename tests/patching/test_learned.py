import numpy as np
import pytest

from bytelm.core.statistics import warnings
from bytelm.patching.learned import RATE, boundary_statistics


def test_what_does_not_count_is_left_out():
    boundaries = np.array([[True, True, False, True]])
    whitespace = np.array([[True, False, True, True]])
    counted = np.array([[True, True, True, False]])
    found = {
        r.statistic.name: r.value for r in boundary_statistics(boundaries, whitespace, counted)
    }
    assert found == {
        "boundaries/rate": 2 / 3,
        "boundaries/precision": 1 / 2,
        "boundaries/recall": 1 / 2,
        "boundaries/f1": 1 / 2,
    }


@pytest.mark.parametrize(("made", "collapsed"), [(0, True), (4, True), (950, True), (200, False)])
def test_collapsed_boundaries_are_a_warning(made, collapsed):
    boundaries = np.arange(1000)[None, :] < made
    found = warnings(boundary_statistics(boundaries, boundaries, np.ones_like(boundaries)))
    assert set(found) == ({RATE.name} if collapsed else set())
    assert all("collapsed" in text for text in found.values())
