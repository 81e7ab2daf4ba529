"""Memory that a process keeps, seen from the pages that the system has to clear for it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, platform, resource, statistics, sys

if platform.libc_ver()[0] != "glibc":
    sys.exit(77)
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages
if sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
import jax
import jax.numpy as jnp
from bytelm.training import host_memory

if sys.argv[1] == "keep":
    host_memory.keep()
# The product, 64 MiB that no one keeps, is made as those of a training step are.
options = {"xla_cpu_experimental_ynn_fusion_type": ""}
step = jax.jit(lambda x: (x @ x.T).max(), compiler_options=options)
x = jnp.ones((4096, 8))
faults = []
for _ in range(41):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# The median of many steps: small blocks of other threads split a kept piece now and then, and the
# next step takes one more, up to eight times on a busy machine. Each of them is kept too.
print(statistics.median(faults) * resource.getpagesize())
if sys.argv[1] == "keep":
    print(open("/proc/self/smaps").read())
"""


def steps(*arguments: str) -> tuple[int, str]:
    """Bytes that the system cleared for the median step, and a map of the memory."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    if run.returncode == 77:
        pytest.skip("memory is not glibc's")
    assert run.returncode == 0, run.stderr
    cleared, _, memory = run.stdout.partition("\n")
    return int(cleared), memory


def heap(memory: str) -> dict[bool, int]:
    """Kilobytes of the heap in memory, by whether they are advised to be huge pages."""
    found = re.findall(r"\[heap\]\n.*?Rss: +(\d+) kB.*?VmFlags:([^\n]*)", memory, re.DOTALL)
    sizes = {False: 0, True: 0}
    for kilobytes, flags in found:
        sizes[" hg" in flags] += int(kilobytes)
    return sizes


def test_a_step_takes_no_new_memory_and_what_is_kept_is_advised_to_be_huge_pages():
    assert steps("give back")[0] > 2**25
    cleared, memory = steps("keep")
    assert cleared < 2**20
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        assert heap(memory)[True] > 2**15


def test_where_addresses_are_limited_none_are_taken_in_advance():
    cleared, memory = steps("keep", str(2**36))
    assert cleared < 2**20
    assert heap(memory)[True] == 0
