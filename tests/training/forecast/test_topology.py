"""Devices by name, without any of them."""

import importlib.util

import jax
import pytest

from bytelm.core.errors import UserError
from bytelm.training.forecast.topology import find_topology


def test_this_machine_is_the_default():
    found = find_topology(None)
    assert (found.backend, len(found.devices)) == ("cpu", 8)
    assert found.is_itself and found.peak_flops("float32") > 0


def test_gpus_are_stood_in_for():
    found = find_topology("gpu:4xh200")
    assert (found.kind, found.backend, len(found.devices)) == ("NVIDIA H200", "gpu", 4)
    assert not found.is_itself
    assert found.memory == 141e9
    assert found.peak_flops("bfloat16") == 989e12


def test_devices_of_a_cpu():
    found = find_topology("cpu:2")
    assert found.devices == jax.devices()[:2]
    assert found.is_itself and found.memory > 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("v5p", "there is no such topology; give a TPU slice such as v5p:2x2x4"),
        ("gpu:8", "there is no such topology"),
        ("gpu:8xh20", "there is no GPU 'h20' .did you mean h200"),
        ("gpu:0xh200", "has no devices"),
        ("gpu:64xh200", "needs 64 devices of this CPU, and this process has started with 8"),
    ],
)
def test_wrong_names(name, sentence):
    with pytest.raises(UserError, match=sentence):
        find_topology(name)


def test_tpus_need_libtpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'bytelm\[tpu\]'"):
        find_topology("v5e:4x4")
