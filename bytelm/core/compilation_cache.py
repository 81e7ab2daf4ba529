"""Compiled programs are kept between runs, by JAX's persistent compilation cache.

Where the user has said where they go (JAX_COMPILATION_CACHE_DIR), or that they are not to be kept
(JAX_ENABLE_COMPILATION_CACHE=false), that holds.
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
"""Bytes of programs that are kept; the least recently used go first."""
OLDEST = 30 * 24 * 3600
"""Seconds after which a program is compiled again: so one that was half written when a disk was
full does not stay."""
SHORTEST = 0.2
"""Seconds of compilation from which a program is kept."""


def keep_programs() -> None:
    """Turns the cache on for this process, which has compiled nothing yet.

    Where there is no folder that can be written, everything is compiled, as without it. So it is
    in one of several processes: they would have to share a folder, which the user has to name.
    """
    config: Any = jax.config  # its type does not know the options
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
    # A program that cannot be read or written is compiled: nothing that a user must know.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)


def _root() -> Path:
    if "BYTELM_CACHE" in os.environ:
        return Path(os.environ["BYTELM_CACHE"]).expanduser() / "programs"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bytelm/programs"


def _machine() -> str:
    """A name for this kind of processor.

    A program for CPU uses the instructions of the machine that compiled it, which JAX's key does
    not hold: on a home directory that machines share, each kind has a folder of its own.
    """
    told = [platform.machine(), platform.processor(), str(os.cpu_count())]
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            if line.partition("\t")[0].strip() in ("model name", "flags", "Features"):
                told.append(line)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


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
