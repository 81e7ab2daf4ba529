"""Memory of arrays on CPU, kept from one step to the next."""

import ctypes
import platform

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`."""


def keep() -> None:
    """Lets this process keep what it frees, where arrays are on CPU and memory is glibc's.

    XLA asks for all temporary arrays of a step in one piece. So large a piece glibc takes from the
    system, which clears it page by page while the step runs, and gives back when the step ends:
    an eighth of a step's time, and more where steps take gigabytes. Kept pieces are pieces of the
    main thread's heap, so steps have to be run there, not handed to another thread.

    For a process with one model: pieces of many sizes do not fit into one another's places, and
    would add up. To be called before anything touches a device, but after processes have joined.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    # Of no consequence for other backends; it has to be said before there is any.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
