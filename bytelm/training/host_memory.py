"""Memory of arrays on CPU: kept from one step to the next, in huge pages."""

import ctypes
import os
import platform
import resource
from pathlib import Path

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`."""
_MADV_HUGEPAGE = 14
"""Advice for Linux's `madvise`."""


def keep() -> None:
    """Makes this process keep the memory it frees, if arrays are on CPU and malloc is glibc's.

    XLA allocates all temporary arrays of a step as one block. glibc gets such a large block from
    the system, which clears it page by page while the step runs, and returns it after the step.
    That takes an eighth of a step's time, and more if a step needs gigabytes. Kept blocks are in
    the main thread's heap, so steps have to run in that thread. The heap grows to half of the
    machine's memory, as addresses only, and gets huge pages, unless addresses are limited.

    Only for a process with one model: freed blocks of many sizes would add up. Call it before
    anything uses a device, and after processes have joined.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    # Must come before any backend starts, and has no effect on others.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
        if not _addresses_are_limited():
            _advise_huge_pages(libc)


def _addresses_are_limited() -> bool:
    """Whether memory counts when it is allocated, not when it is used."""
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    policy = Path("/proc/sys/vm/overcommit_memory")
    strict = policy.exists() and policy.read_text().strip() == "2"
    return strict or any(limit != resource.RLIM_INFINITY for limit in limits)


def _advise_huge_pages(libc: ctypes.CDLL) -> None:
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    page = os.sysconf("SC_PAGE_SIZE")
    size = page * os.sysconf("SC_PHYS_PAGES") // 2
    block = libc.malloc(size)
    if block:
        first = -(-block // page) * page
        libc.madvise(first, block + size - first, _MADV_HUGEPAGE)
        libc.free(block)
