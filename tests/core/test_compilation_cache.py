"""Compiled programs are kept in the user's cache, unless the user says otherwise."""

import os
import time
import warnings

import jax
import pytest

from bytelm.core import compilation_cache
from bytelm.core.compilation_cache import keep_programs

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of programs of a user who has set nothing."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        yield tmp_path / "programs"
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_for_this_kind_of_machine(root, monkeypatch):
    keep_programs()
    (folder,) = root.iterdir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    # Another processor on the same home directory has a folder of its own.
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation_cache.platform, "machine", lambda: "riscv128")
    keep_programs()
    assert jax.config.jax_compilation_cache_dir != str(folder)
    assert len(list(root.iterdir())) == 2


def test_what_the_user_says_holds(root, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
    keep_programs()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_enable_compilation_cache", False)  # JAX_ENABLE_COMPILATION_CACHE
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None and not root.exists()


def test_several_processes_keep_none(root, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_without_a_folder_everything_is_compiled(root, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "file"))
    keep_programs()
    monkeypatch.setenv("BYTELM_CACHE", "~nobody-of-this-name/cache")
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_least_recently_used_and_the_old_go(root, monkeypatch):
    monkeypatch.setattr(compilation_cache, "LARGEST", 250)
    folder, now = root / "another", time.time()
    folder.mkdir(parents=True)
    ages = {"used": (0, 9000), "new": (50, 50), "unused": (9000, 9000), "old": (0, 40 * 86400)}
    for name, (read, written) in ages.items():
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (now - read, now - written))
    keep_programs()
    assert {path.name for path in folder.iterdir()} == {"used", "new"}
