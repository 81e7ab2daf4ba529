"""Runs the user's own Python files: presets, and modules that define families.

Only files that the user names are run, never those that a checkpoint or a data folder names.
"""

import contextlib
import hashlib
import importlib
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

from bytelm.core.errors import UserError
from bytelm.core.renamed import hint


def run_module(path: Path) -> types.ModuleType:
    """Runs a file as a new module, each time it is called.

    The file can import from its own folder.

    Raises:
        UserError: if it fails; the error names the line.
    """
    file = path.resolve()
    # A name that nothing else imports: a preset called json.py must not hide that module.
    name = f"bytelm_user_{hashlib.sha256(bytes(file)).hexdigest()[:12]}"
    module = types.ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # where dataclasses look up their types
    with _errors(path), _importable(file.parent):
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    return module


def import_user_code(name: str) -> None:
    """Imports what `--import` names, which registers the families that it defines.

    That is a .py file, also one within a package, or the dotted name of a module.

    Raises:
        UserError: if it is missing or fails.
    """
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise UserError(f"--import {name}: there is no such file; check the path.")
        if (path.parent / "__init__.py").is_file():
            _import_from_package(path)
        else:
            run_module(path)
        return
    with _errors(f"--import {name}"):
        importlib.import_module(name)


def _import_from_package(path: Path) -> None:
    root = path.resolve().parent
    parts = [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    with _errors(path), _importable(root):
        importlib.import_module(".".join(parts))


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Within the context, code can import from a folder, as from a script's own."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


@contextlib.contextmanager
def _errors(what: Path | str) -> Iterator[None]:
    """Turns any exception of the user's code into one sentence."""
    try:
        yield
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if isinstance(what, Path) and frame.filename == str(what.resolve())
        ]
        place = f"{what}, line {lines[-1]}" if lines else str(what)
        if isinstance(error, UserError):
            raise UserError(f"{place}: {error}") from None
        reason = " ".join(str(error).split())
        raise UserError(
            f"{place}: failed with {type(error).__name__}: {reason}{hint(error)}."
        ) from error
