"""What the floats of a program depend on besides the program: the fingerprint of a machine."""

import hashlib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import jax

_FEATURES = ("flags", "Features")
"""The line of /proc/cpuinfo with a processor's features, on x86 and on ARM."""


def fingerprint() -> dict[str, str]:
    """Everything that may change the rounding of a compiled program, by name.

    Two machines with equal fingerprints compute the same bits.
    """
    device = jax.local_devices()[0]
    found = {"JAX": version("jax"), "jaxlib": version("jaxlib"), "device": device.device_kind}
    if device.platform == "cpu":
        found |= {"processor": _processor(), "cores": str(_cores())}
    flags = os.environ.get("XLA_FLAGS", "").split()
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return {
        **found,
        "XLA_FLAGS": _digest(sorted(flags)) if flags else "none",
        "matmul precision": str(precision),
    }


def difference(theirs: dict[str, str], ours: dict[str, str]) -> str | None:
    """The first thing that differs, such as "JAX is 0.11.2 there and 0.10.2 here"; None if none."""
    for name in {**theirs, **ours}:
        there, here = theirs.get(name, "unknown"), ours.get(name, "unknown")
        if there != here:
            return f"{name} is {there} there and {here} here"
    return None


def _cores() -> int | None:
    """The cores of this process: programs divide their sums among them."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def _processor() -> str:
    """Its name, and a digest of its features."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return f"{platform.processor()} {platform.machine()}"
    lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    fields = {name.strip(): value.split() for name, _, value in reversed(lines)}  # the first core's
    features = next((fields[name] for name in _FEATURES if name in fields), [])
    name = " ".join(fields.get("model name", [platform.machine()]))
    return f"{name} ({_digest(sorted(features))})"


def _digest(words: list[str]) -> str:
    return hashlib.blake2b(" ".join(words).encode(), digest_size=4).hexdigest()
