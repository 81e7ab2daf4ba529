"""Memory that a process keeps, seen from the pages that the system has to clear for it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, platform, resource, sys

if platform.libc_ver()[0] != "glibc":
    sys.exit(77)
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages
import jax
import jax.numpy as jnp
from bytelm.training import host_memory

if sys.argv[1] == "keep":
    host_memory.keep()
# The product, 256 MiB that no one keeps, is made as those of a training step are.
options = {"xla_cpu_experimental_ynn_fusion_type": ""}
step = jax.jit(lambda x: (x @ x.T).max(), compiler_options=options)
x = jnp.ones((8192, 8))
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults * resource.getpagesize())
"""


def cleared_bytes(what: str) -> int:
    """Of memory that the system cleared for a step that was done before."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, what], env=environment, capture_output=True, text=True
    )
    if run.returncode == 77:
        pytest.skip("memory is not glibc's")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_a_step_takes_no_new_memory():
    assert cleared_bytes("give back") > 2**27
    assert cleared_bytes("keep") < 2**22
