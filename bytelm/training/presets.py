"""Presets: files `configs/NAME.py`, a user's own Python file, or a saved config.json."""

import difflib
import warnings
from pathlib import Path
from typing import TypeVar

from bytelm.core.errors import UserError
from bytelm.core.places import place
from bytelm.core.user_code import run_module
from bytelm.training.experiment import ExperimentConfig, load_json

T = TypeVar("T")

ABLATIONS, COMPARISONS = "ablations/", "comparison/"
"""Subfolders whose files define ablations and comparisons, not presets."""
HERE = Path("configs")
"""Presets of the current folder. They do not replace bytelm's own of the same name: a preset is a
program, and the current folder must not change what a known name runs."""


def preset_folders() -> list[Path]:
    """Folders of presets: next to the package (a checkout), in it (a wheel), and here."""
    package = Path(__file__).parents[1]
    candidates = [package.parent / "configs", package / "configs", HERE]
    return [folder for folder in candidates if folder.is_dir()]


def preset_names() -> list[str]:
    """The names of all presets; those of a subfolder begin with its name and a slash."""
    return [name for name in _names() if not name.startswith((ABLATIONS, COMPARISONS))]


def ablation_names() -> list[str]:
    """The names of all ablations, such as `ablations/boundaries`."""
    return [name for name in _names() if name.startswith(ABLATIONS)]


def comparison_names() -> list[str]:
    """The names of all comparisons, such as `comparison/cpu`."""
    return [name for name in _names() if name.startswith(COMPARISONS)]


def _names() -> list[str]:
    files = ((path, folder) for folder in preset_folders() for path in folder.rglob("[!_]*.py"))
    return sorted({path.relative_to(f).with_suffix("").as_posix() for path, f in files})


def load_preset(name: str) -> ExperimentConfig:
    """The config of a preset, by its name or by the path of a .py or .json file.

    A Python file is run: it must define `config`, and can import from its own folder.

    Raises:
        UserError: if there is no such preset or file, or it defines no ExperimentConfig.
    """
    path = find_file(name, "preset", preset_names())
    if path.suffix == ".json":
        return load_json(path)
    return run_file(path, "config", ExperimentConfig)


def find_file(name: str, what: str, names: list[str]) -> Path:
    """The file of a name in `configs/`, or of a path that ends in .py or .json.

    bytelm's own files come first, with a warning if the current folder has another file of that
    name.

    Raises:
        UserError: if there is no such file; it says `what` kind of file, and similar `names`.
    """
    if name.endswith((".py", ".json")):
        path = place(name) if name.endswith(".json") else Path(name)
        if not path.is_file():
            raise UserError(f"there is no config file {name}; check the path.")
        return path
    found = [folder / f"{name}.py" for folder in preset_folders()]
    found = [path for path in found if path.is_file()]
    if not found:
        raise UserError(
            f"there is no {what} {name!r}{_advice(name, names)}; a path to a file works too."
        )
    path, mine = found[0], HERE / f"{name}.py"
    if mine in found and mine.read_bytes() != path.read_bytes():
        warnings.warn(
            f"{what} {name} is bytelm's own, not {mine} of this folder; give the path {mine} to "
            "use that.",
            stacklevel=2,
        )
    return path


def _advice(name: str, names: list[str]) -> str:
    """Names similar to the given one, for the error."""
    for path in (Path(f"{name}.py"), Path(name, "config.json")):
        if path.is_file():
            return f" (did you mean {path}?)"
    near = difflib.get_close_matches(name, names, n=4)
    near += [known for known in names if name in known and known not in near]
    if near:
        *others, last = near[:6]
        return f" (did you mean {', '.join(others)}{' or ' if others else ''}{last}?)"
    return some_names(names)


def some_names(names: list[str]) -> str:
    """'; there are A, B, ...', for an error."""
    if len(names) <= 8:
        return f"; there are {', '.join(names)}"
    tiny = [name for name in names if name.endswith("_tiny")] or names[:6]
    return f"; there are {', '.join(tiny)} and {len(names) - len(tiny)} more, which --help lists"


def run_file(path: Path, variable: str, kind: type[T]) -> T:
    """Runs a Python file; returns its `variable` of type `kind`, or raises UserError."""
    value = getattr(run_module(path), variable, None)
    if not isinstance(value, kind):
        raise UserError(f"{path} defines no {kind.__name__} named `{variable}`; see configs/.")
    return value
