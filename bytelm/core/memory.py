"""How much memory is free."""

from pathlib import Path

import jax

MEMORY = Path("/proc/meminfo")


def free_memory() -> int | None:
    """Bytes that arrays on the first device may still take; None if that is not known."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        known = device.memory_stats() or {}
        return known["bytes_limit"] - known["bytes_in_use"] if "bytes_limit" in known else None
    if not MEMORY.exists():
        return None
    lines = (line.split() for line in MEMORY.read_text().splitlines())
    return next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), None)
