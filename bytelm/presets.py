"""Finding a preset: a file `configs/NAME.py`, a user's own Python file, or a saved config.json."""

import runpy
from pathlib import Path
from typing import TypeVar

from bytelm.config import ExperimentConfig, did_you_mean, load_json
from bytelm.errors import UserError

T = TypeVar("T")

PACKAGE = Path(__file__).parent
ABLATIONS = "ablations"
COMPARISONS = "comparison"
"""Subfolders whose files define ablations and comparisons, which are no presets."""


def preset_folders() -> list[Path]:
    """Where presets are looked for: here, beside the package (a checkout), in it (a wheel)."""
    candidates = [Path("configs"), PACKAGE.parent / "configs", PACKAGE / "configs"]
    return [folder for folder in candidates if folder.is_dir()]


def preset_names() -> list[str]:
    """The names of all presets; those of a subfolder begin with its name and a slash."""
    return [name for name in _names() if not name.startswith((f"{ABLATIONS}/", f"{COMPARISONS}/"))]


def ablation_names() -> list[str]:
    """The names of all ablations, such as `ablations/boundaries`."""
    return [name for name in _names() if name.startswith(f"{ABLATIONS}/")]


def comparison_names() -> list[str]:
    """The names of all comparisons, such as `comparison/cpu`."""
    return [name for name in _names() if name.startswith(f"{COMPARISONS}/")]


def _names() -> list[str]:
    return sorted(
        {
            path.relative_to(folder).with_suffix("").as_posix()
            for folder in preset_folders()
            for path in folder.rglob("[!_]*.py")
        }
    )


def load_preset(name: str) -> ExperimentConfig:
    """The config of a preset's name or of a path to a .py or .json file.

    A Python file is the user's own program and is run: it must define `config`.

    Raises:
        UserError: if there is no such preset or file, or it defines no ExperimentConfig.
    """
    path = find_file(name, "preset", preset_names())
    if path.suffix == ".json":
        return load_json(path)
    return run_file(path, "config", ExperimentConfig)


def find_file(name: str, what: str, names: list[str]) -> Path:
    """The file of a name in `configs/`, or of a path that ends in .py or .json.

    Args:
        what: what the file holds, and `names`, all of that kind, for the error.

    Raises:
        UserError: if there is no such file.
    """
    if name.endswith((".py", ".json")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"there is no config file {name}; check the path.")
        return path
    for folder in preset_folders():
        path = folder / f"{name}.py"
        if path.is_file():
            return path
    known = did_you_mean(name, names) or f"; there are {', '.join(names)}"
    raise UserError(f"there is no {what} {name!r}{known}; a path to a file works too.")


def run_file(path: Path, variable: str, kind: type[T]) -> T:
    """Runs a Python file and returns the object of type `kind` that it defines as `variable`.

    Raises:
        UserError: if it fails or defines no such object.
    """
    try:
        value = runpy.run_path(str(path)).get(variable)
    except UserError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise UserError(f"{path} failed with {type(error).__name__}: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} defines no {kind.__name__} named `{variable}`; see configs/.")
    return value
