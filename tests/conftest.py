"""Every test runs on eight virtual CPU devices, unless JAX_PLATFORMS chooses other hardware."""

import os
from importlib.metadata import version

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
        # So does this, where XLA still has it.
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jax").startswith("0.10.") else []),
    ]
)

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory):
    """Packed text goes to a directory of this test session, never to the user's cache."""
    path = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYTELM_CACHE", str(path))
        yield path


@pytest.fixture(scope="module")
def compilation_cache(tmp_path_factory):
    """For modules whose runs compile the same programs again and again: once is enough."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
