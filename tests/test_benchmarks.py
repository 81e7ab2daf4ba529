"""Every benchmark can be started: its imports and its options exist."""

import importlib
from pathlib import Path

import pytest

NAMES = sorted(
    path.stem
    for path in Path(__file__).parents[1].glob("benchmarks/*.py")
    if path.stem != "__init__"
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name):
    importlib.import_module(f"benchmarks.{name}")
