"""Finding a preset: a file `configs/NAME.py`, a user's own Python file, or a saved config.json."""

import runpy
from pathlib import Path

from bytelm.config import ExperimentConfig, did_you_mean, load_json
from bytelm.errors import UserError

PACKAGE = Path(__file__).parent


def preset_folders() -> list[Path]:
    """Where presets are looked for: here, beside the package (a checkout), in it (a wheel)."""
    candidates = [Path("configs"), PACKAGE.parent / "configs", PACKAGE / "configs"]
    return [folder for folder in candidates if folder.is_dir()]


def preset_names() -> list[str]:
    """The names of all presets; those of a subfolder begin with its name and a slash."""
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
    if name.endswith((".py", ".json")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"there is no config file {name}; check the path.")
    else:
        found = [path for folder in preset_folders() if (path := folder / f"{name}.py").is_file()]
        if not found:
            names = preset_names()
            raise UserError(
                f"there is no preset {name!r}{did_you_mean(name, names)}; there are "
                f"{', '.join(names)}, and a path to a .py or .json file works too."
            )
        path = found[0]
    if path.suffix == ".json":
        return load_json(path)
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise UserError(f"{path} failed with {type(error).__name__}: {error}") from error
    if not isinstance(config, ExperimentConfig):
        raise UserError(f"{path} defines no ExperimentConfig named `config`; see configs/.")
    return config
