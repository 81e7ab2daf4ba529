import platform
import re
import time

import jax
import jax.numpy as jnp
import pytest

from bytelm.training import hardware
from bytelm.training.hardware import describe_machine, known_chip, peak_flops


@pytest.fixture(autouse=True)
def forget_peaks():
    hardware._peak_flops.cache_clear()
    yield
    hardware._peak_flops.cache_clear()


@pytest.fixture
def pretend_device(monkeypatch):
    """Makes JAX report one accelerator of the given kind."""

    def pretend(kind):
        class Device:
            device_kind = kind
            platform = "accelerator"

        monkeypatch.setattr(jax, "local_devices", lambda: [Device()])

    return pretend


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float32"),
    [
        ("TPU v4", 275, 275),
        ("TPU v5 lite", 197, 197),
        ("TPU v5p", 459, 459),
        ("TPU v6 lite", 918, 918),
        ("NVIDIA A100-SXM4-80GB", 312, 156),
        ("NVIDIA H100 80GB HBM3", 989, 494),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA H200", 989, 494),
        ("NVIDIA B200", 2250, 1125),
    ],
)
def test_known_devices(pretend_device, kind, bfloat16, float32):
    pretend_device(kind)
    assert peak_flops(jnp.bfloat16) == bfloat16 * 1e12
    assert peak_flops("float32") == float32 * 1e12


def test_a_smaller_memory_in_the_name_counts():
    kinds = {"NVIDIA A100-SXM4-40GB": 40, "NVIDIA A100 80GB PCIe": 80, "NVIDIA GH200 480GB": 96}
    assert {kind: known_chip(kind).memory for kind in kinds} == kinds


@pytest.mark.parametrize(
    "kind", ["TPU v4 lite", "NVIDIA A1000", "NVIDIA H200 MIG 1g.18gb", "NVIDIA L40", ""]
)
def test_devices_that_only_resemble_known_ones_are_measured(pretend_device, monkeypatch, kind):
    pretend_device(kind)
    monkeypatch.setattr(hardware, "_measure", lambda dtype, size: 1e12)
    assert peak_flops(jnp.bfloat16) == 1e12


def test_a_dtype_without_a_known_rate_is_measured(pretend_device, monkeypatch):
    pretend_device("NVIDIA H200")
    monkeypatch.setattr(hardware, "_measure", lambda dtype, size: 1e12)
    assert peak_flops(jnp.float16) == 1e12


def test_cpu_is_measured_once():
    peak = peak_flops(jnp.float32)
    assert 1e8 < peak < 1e14
    assert peak_flops("float32") is peak


def test_virtual_cpu_devices_share_the_peak(monkeypatch):
    monkeypatch.setattr(hardware, "_measure", lambda dtype, size: 8e9)
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    assert peak_flops(jnp.float32) == 2e9


def test_measuring_counts_two_operations_per_multiplication(monkeypatch):
    monkeypatch.setattr(hardware, "_MEASURING_SECONDS", 0.0)
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    assert hardware._measure("float32", size=8) == 2 * 8**3


def test_machine_in_one_line(pretend_device):
    line = describe_machine()
    assert re.fullmatch(r"\d+ cores of .+, JAX .+, Python .+", line)
    assert platform.python_version() in line
    pretend_device("NVIDIA H200")
    assert describe_machine().startswith(f"{jax.device_count()} x NVIDIA H200, JAX ")
