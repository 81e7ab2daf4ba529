"""Provenance of a checkpoint or a figure: code, packages, machine, command line."""

import importlib.metadata
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax

_PACKAGES = "bytelm jax jaxlib flax optax orbax-checkpoint grain tensorflow-datasets numpy".split()


def provenance() -> dict[str, Any]:
    """Code, packages, machine and command line, as JSON values; never fails.

    `git` is `{"revision": 40 hex digits, "dirty": bool}`, or None outside a checkout; a package
    that is not installed has version None; `devices` counts the devices of all processes by kind.
    """
    return {
        "git": _git(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": dict(sorted(Counter(device.device_kind for device in jax.devices()).items())),
        "processes": jax.process_count(),
        "command": sys.argv,
    }


def _git() -> dict[str, Any] | None:
    def run(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        # An installed package may lie inside the checkout of another project.
        run("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "revision": run("rev-parse", "HEAD"),
            "dirty": bool(run("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
