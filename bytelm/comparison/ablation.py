"""Ablations: one config, changed in a few fields for each of several points, run and compared."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bytelm.api import load
from bytelm.checked import Checked
from bytelm.comparison.changes import changed
from bytelm.comparison.plot import plot
from bytelm.comparison.results import PointResult, finished, print_table, write_tables
from bytelm.comparison.runs import carry_out, check_saved, is_trained
from bytelm.config import (
    ExperimentConfig,
    differences,
    saved_form,
    to_dict,
)
from bytelm.data.documents import Documents
from bytelm.errors import UserError
from bytelm.evaluation.report import evaluate
from bytelm.evaluation.targets import evaluate_targets
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.run_directory import lock


@dataclass(frozen=True)
class Ablation(Checked, name="ablation"):
    """What an ablation file defines.

    Attributes:
        base: what all points have in common.
        points: by the point's name, its changes to the base: a config field's dotted path
            (`model.boundary`, or `model` for all of it) and its value.

    Raises:
        UserError: for no points, a name that no directory can have, or a change that is none.
    """

    base: ExperimentConfig
    points: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.points:
            raise UserError("the ablation has no points; give at least one.")
        for name in self.points:
            if not re.fullmatch(r"\w[\w.+-]*", name):
                raise UserError(
                    f"the ablation has a point {name!r}; a directory gets that name, so use "
                    "letters, digits and . _ + - alone."
                )
        models = [config.model for config in self.configs.values()]
        if len({isinstance(model, EncoderDecoderConfig) for model in models}) > 1:
            raise UserError(
                "the ablation has families with and without an encoder: bits per target byte and "
                "bits per byte cannot be compared; make an ablation of each kind."
            )

    @property
    def configs(self) -> dict[str, ExperimentConfig]:
        """The config of each point."""
        configs = {}
        for name, changes in self.points.items():
            try:
                configs[name] = saved_form(changed(self.base, changes))
            except UserError as error:
                raise UserError(f"point {name} of the ablation: {error}") from None
        return configs


@dataclass(frozen=True)
class AblateCommand:
    """Trains and tests the points of an ablation."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    output: Path | None = None
    """Where the runs, the table and the plot go; none = runs/ablations/NAME."""
    max_bytes: int | None = None
    """Bytes that are tested on, the last document cut (with an encoder: inputs, whole rows); none =
    all of the split."""


def run_ablation(ablation: Ablation, output: Path, *, max_bytes: int | None = None) -> int:
    """Trains and tests each point in `output/POINT`, and compares them.

    A point that is done is not run again, one that was interrupted is resumed, and one that fails
    (see `PointResult`) does not keep the others from running. After each point `table.md`,
    `table.json` and `plot.png` in `output` are written anew.

    Args:
        ablation: what to run.
        output: made if it does not exist.
        max_bytes: the test is so many bytes, and its last document is cut; None for all
            of the test split.

    Returns:
        an exit status: 0, 1 if a point failed, 143 if a signal asked to stop.

    Raises:
        UserError: if a point's directory holds a run of another config; nothing is run then.
    """
    configs = ablation.configs
    for name, config in configs.items():
        check_saved(output / name, config)
    output.mkdir(parents=True, exist_ok=True)
    with lock(output):
        base = to_dict(ablation.base)
        results = {
            name: PointResult(name, _changes(base, config), "waiting")
            for name, config in configs.items()
        }
        # Those that are trained come first, so that the table never loses what is known of them.
        order = sorted(configs, key=lambda name: not is_trained(output / name, configs[name]))
        for number, name in enumerate(order, 1):
            print(f"point {name} ({number} of {len(configs)})")
            results[name] = _run_point(results[name], output / name, configs[name], max_bytes)
            write_tables(list(results.values()), output, max_bytes)
            plot(list(results.values()), output)
            if results[name].state == "stopped":
                break
    print_table(list(results.values()))
    print(f"table and plot: {output}")
    states = [result.state for result in results.values()]
    if "stopped" in states:
        print("stopped on request; the same command goes on")
        return 143
    return 1 if "failed" in states else 0


def _changes(base: Any, config: ExperimentConfig) -> dict[str, Any]:
    return {path: new for path, _, new in differences(base, to_dict(config))}


def _run_point(
    waiting: PointResult, run_dir: Path, config: ExperimentConfig, max_bytes: int | None
) -> PointResult:
    """Does of a point what is left to do."""
    test = functools.partial(_test, max_bytes=max_bytes)
    outcome = carry_out(run_dir, config, test, {"max_bytes": max_bytes})
    if outcome.state == "done":
        return finished(waiting, config, run_dir, outcome.report)
    return dataclasses.replace(waiting, state=outcome.state, reason=outcome.reason)


def _test(run_dir: Path, config: ExperimentConfig, max_bytes: int | None) -> dict[str, Any]:
    """The report on the test split."""
    loaded = load(run_dir, config.train.steps)
    if loaded.has_encoder:
        report = evaluate_targets(loaded, config.data, "test", max_bytes=max_bytes)
        bits = report["bits_per_target_byte"]
    else:
        documents = Documents(config.data, "test")
        report = evaluate(loaded, documents, batch_size=16, max_bytes=max_bytes, compressors=False)
        bits = report["bits_per_byte"]
    if not math.isfinite(bits):
        raise UserError(f"its test bits per byte are {bits}: it diverged.")
    return report
