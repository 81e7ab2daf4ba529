"""Every test runs on eight virtual CPU devices, unless JAX_PLATFORMS chooses other hardware."""

import atexit
import ctypes
import functools
import gc
import os
import resource
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

# Set before anything imports jax; processes that tests start inherit them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Tests compile far more than they compute: this halves the time of the suite.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        # So does this, where XLA still has it.
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jax").startswith("0.10.") else []),
    ]
)
# Many tests compile the same programs: once is enough for all workers and the processes they start.
# Whoever sets the variable keeps them between runs too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.mkdtemp(prefix="bytelm-programs-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import pytest

# Tests kill processes: none of them leaves a core dump, which would be of many gigabytes.
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def pytest_collection_finish():
    """Spares the garbage collector what lives as long as the tests: modules, and what they hold."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


MOST_MEMORY = 2 * 2**30
"""Bytes of resident memory from which a process forgets what it compiled."""
MOST_MAPS = 30_000
"""Mappings of memory from which it does at the end of a file; Linux ends it at 65,530."""
most_memory = MOST_MEMORY


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Lets go of the programs of earlier tests: each of them holds memory and mappings of it."""
    global most_memory
    if not Path("/proc/self/statm").exists():
        return
    ends = nextitem is None or nextitem.path != item.path
    if memory() < most_memory and not (ends and maps() > MOST_MAPS):
        return
    import jax

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what earlier tests left open
        jax.clear_caches()
        gc.collect()
    # The C library keeps what was freed until it is asked to give it back.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    most_memory = max(MOST_MEMORY, memory() + MOST_MEMORY // 4)


def memory():
    """Bytes of this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def maps():
    return Path("/proc/self/maps").read_bytes().count(b"\n")  # takes a while when there are many


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory):
    """Packed text goes to a directory of this test session, never to the user's cache."""
    path = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYTELM_CACHE", str(path))
        yield path


@pytest.fixture(scope="session", autouse=True)
def programs_are_kept():
    """Runs share compiled steps, also after others; `pytest_runtest_teardown` bounds the memory."""
    from bytelm.experiments import plan
    from bytelm.training import program

    with pytest.MonkeyPatch.context() as patch:
        several = functools.lru_cache(maxsize=8)(program._program.__wrapped__)
        patch.setattr(program, "_program", several)
        patch.setattr(plan, "forget_programs", lambda: None)
        yield
