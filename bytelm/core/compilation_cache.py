"""Keeps compiled programs between runs, in JAX's persistent compilation cache.

The user's own settings win: JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE=false.
"""

import contextlib
import hashlib
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import jax

LARGEST = 2 * 2**30
"""Most bytes of programs that are kept; the least recently used are removed first."""
OLDEST = 30 * 24 * 3600
"""Age in seconds at which a program is removed, so that one that a full disk cut short does not
stay forever."""
SHORTEST = 0.2
"""A program is kept if compiling it took at least this many seconds."""


def keep_programs() -> None:
    """Turns the cache on; call it before anything is compiled.

    It stays off if no folder can be written to, and in a run of several processes: these would
    have to share a folder, which only the user can name.
    """
    config: Any = jax.config  # the options are missing in its type
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or config.jax_compilation_cache_dir:
        return
    if not config.jax_enable_compilation_cache or jax.distributed.is_initialized():
        return
    try:
        root = _root()
        folder = root / _machine()
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old(root)
    except (OSError, RuntimeError):  # the latter without a home directory
        return
    if not os.access(folder, os.W_OK):
        return
    # A program that cannot be read is compiled again; the user need not know.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)


def _root() -> Path:
    if "BYTELM_CACHE" in os.environ:
        return Path(os.environ["BYTELM_CACHE"]).expanduser() / "programs"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bytelm/programs"


def _machine() -> str:
    """A name for this kind of processor.

    A CPU program uses instructions of the machine that compiled it, which are not in JAX's key. If
    several machines share a home directory, each kind of processor needs its own folder.
    """
    features = [platform.machine(), platform.processor(), str(os.cpu_count())]
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            if line.partition("\t")[0].strip() in ("model name", "flags", "Features"):
                features.append(line)
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:16]


def _remove_old(root: Path) -> None:
    """Removes programs that are old, and the least recently used beyond `LARGEST` bytes."""
    found = []
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it too
            if path.is_file():
                status = path.stat()
                found.append((max(status.st_atime, status.st_mtime), status, path))
    found.sort(key=lambda item: item[0], reverse=True)
    total, now = 0, time.time()
    for _, status, path in found:
        keep = now - status.st_mtime <= OLDEST and total + status.st_size <= LARGEST
        if keep:
            total += status.st_size
        else:
            path.unlink(missing_ok=True)
