"""Tests and costs of trained runs."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bytelm.api import LoadedModel, load
from bytelm.core.errors import UserError
from bytelm.core.files import write_whole
from bytelm.core.terminal_text import say
from bytelm.data.config import DataConfig
from bytelm.data.open_data import Documents, OpenData
from bytelm.data.validation import ValidationBatches
from bytelm.evaluation.bits import Bits
from bytelm.evaluation.report import Result
from bytelm.evaluation.suite import Evaluation, Scoring
from bytelm.evaluation.targets import Targets
from bytelm.evaluation.text import FirstBytes, GivenText, SplitText, evaluation_text
from bytelm.experiments.records import MEASURES, named_figures, run_figures
from bytelm.experiments.runs import Run, RunResult
from bytelm.models.parameters import count_parameters
from bytelm.nn.mesh import place_batch
from bytelm.training.cost import row_flops
from bytelm.training.hardware import describe_machine
from bytelm.training.program import build_program
from bytelm.training.timing import RepeatedStep, in_turns, repeated_step

BATCH = 16
"""Windows scored at a time."""
SPEEDS = "speeds.json"
"""File with the speeds in a comparison's directory."""


def measure_run(
    run: Run,
    max_bytes: int | None,
    *,
    with_costs: bool = False,
    more: Sequence[tuple[Evaluation, int | None]] = (),
) -> RunResult:
    """Tests a trained run.

    Args:
        run: with its last checkpoint.
        max_bytes: bytes that are tested on, the last document cut; None for the whole test split.
        with_costs: whether to measure the costs of inference on the test text (for decoders).
        more: evaluations besides bits, and the most test bytes for each, equally many from the
            start of each document; None for all.

    Raises:
        UserError: for a run that diverged.
    """
    config = run.config
    loaded = load(run.directory, config.train.steps)
    if loaded.has_encoder:
        pairs = evaluation_text(loaded, config.data, "test")
        found = Targets().run(loaded, pairs, Scoring(max_bytes=max_bytes))
        return _checked(run, found)._replace(text=pairs.about(max_bytes))
    text = SplitText(OpenData(config.data), "test", loaded.text_record)
    scoring = Scoring(batch_size=BATCH, max_bytes=max_bytes)
    bits = Bits(compressors=False).run(loaded, text, scoring)
    result = _checked(run, bits)
    figures = dict(result.figures)
    if with_costs:
        figures |= run_figures(inference_costs(run, loaded, text.data, bits.details["symbols"]))
    tested = list(FirstBytes(text.documents(), max_bytes)) if more else []
    for evaluation, most in more:
        given = tested if most is None else document_beginnings(tested, most)
        found = evaluation.run(loaded, GivenText(tuple(given)), Scoring(batch_size=BATCH))
        figures |= named_figures(found.figures, upper_bound=run.upper_bound)
    return result._replace(figures=figures, text=text.about(max_bytes))


def _checked(run: Run, result: Result) -> RunResult:
    """The result of a test, whose first figure is the bits."""
    bits = result.figures[0]
    if not math.isfinite(bits.value):
        raise UserError(f"its test {MEASURES[bits.name]} are {bits.value}: it diverged.")
    return RunResult(
        named_figures(result.figures, upper_bound=run.upper_bound),
        tuple(result.documents.bits.tolist()),
        tuple(result.documents.bytes.tolist()),
    )


def measure_adaptation(run: Run, max_bytes: int | None) -> RunResult:
    """Tests a run that continued another run on new text: what it learned and forgot.

    Returns:
        figures named `adapted/CORPUS/` and: `before` and `bpb`, bits per byte of the new text's
        test before and after; `early`, of its validation after a tenth of the training;
        `forgetting`, by how much the bits per byte of the old text's test rose.
    """
    assert run.initial is not None
    old, new = load(run.initial.directory), load(run.directory, run.config.train.steps)
    home, away = run.initial.config.data, run.config.data

    def bits(loaded: LoadedModel, data: DataConfig) -> float:
        documents = FirstBytes(Documents(OpenData(data), "test"), max_bytes)
        return loaded.score_documents(documents, batch_size=BATCH).bits_per_byte()

    validations = [r["validation_bpb"] for r in run.metrics() if "validation_bpb" in r]
    values = {
        "before": bits(old, away),
        "bpb": bits(new, away),
        "early": validations[0],
        "forgetting": bits(new, home) - bits(old, home),
    }
    named = {f"adapted/{run.corpus}/{name}": value for name, value in values.items()}
    return RunResult(run_figures(named, upper_bound=run.upper_bound))


def document_beginnings(documents: Sequence[bytes], max_bytes: int) -> list[bytes]:
    """Equally many bytes from the start of each document, about `max_bytes` in all at most."""
    share = -(-max_bytes // len(documents))
    return [document[:share] for document in documents]


def curve(run: Run, measure: str) -> tuple[tuple[float, float, float], ...]:
    """Validations as (training FLOPs, bytes of text, bits)."""
    name = f"validation_{measure}"
    return tuple(
        (r["step"] * run.flops_per_step, r["step"] * run.bytes_per_step, r[name])
        for r in run.metrics()
        if r.get(name) is not None
    )


def training_figures(run: Run, measure: str) -> dict[str, float]:
    """Costs and statistics of a trained run; `measure` names its bits.

    Returns:
        `train_flops`, `parameters`, `parameters_without_embeddings`, `train_bytes_per_second` (the
        median of the records), `compile_seconds`, `training_seconds`; and of the last validation
        `validation_bits` and all statistics of the family.
    """
    total, rest = count_parameters(run.config.model)
    figures = {
        "train_flops": run.config.train.steps * run.flops_per_step,
        "parameters": float(total),
        "parameters_without_embeddings": float(rest),
    }
    records = run.metrics()
    bits = f"validation_{measure}"
    last: Mapping[str, Any] = next((r for r in reversed(records) if r.get(bits) is not None), {})
    for metric, value in last.items():
        name = "validation_bits" if metric == bits else metric.removeprefix("validation/")
        if name != metric and "/" not in name and value is not None:
            figures[name] = value
    speeds = [r["bytes_per_second"] for r in records if r.get("bytes_per_second")]
    if speeds:
        figures["train_bytes_per_second"] = float(np.median(speeds))
    if records and "compile_seconds" in records[-1]:
        figures["compile_seconds"] = records[-1]["compile_seconds"]
        figures["training_seconds"] = records[-1]["seconds"]
    return figures


def inference_costs(
    run: Run, loaded: LoadedModel, data: OpenData, symbols: int
) -> dict[str, float]:
    """Forward FLOPs per byte of the test text, and the mean bytes per patch.

    `symbols` of the test split are read, in packed rows.

    Returns:
        `inference_flops_per_byte` for the patches that the text has,
        `inference_flops_per_byte_capacity` for all slots, `context_bytes` of a row, and
        `bytes_per_patch` in families with patches.
    """
    config = run.config
    mesh = config.mesh.build()
    program = build_program(config, mesh)
    rows = patches = size = 0.0
    counted = -(-symbols // config.data.sequence_length)
    with jax.set_mesh(mesh):
        for batch in ValidationBatches(data, counted, "test"):
            sums = jax.device_get(program.evaluate(loaded.params, place_batch(batch, mesh)))
            rows += float((batch.document_ids > 0).any(axis=1).sum())
            patches += float(sums.patches or 0)
            size += float(sums.bytes)
    needed = row_flops(config, patches / rows if patches else None)
    figures = {
        "inference_flops_per_byte": needed * rows / size,
        "inference_flops_per_byte_capacity": row_flops(config) * rows / size,
        "context_bytes": size / rows,
    }
    if patches:
        figures["bytes_per_patch"] = size / patches
    return figures


@dataclass(frozen=True)
class Speeds:
    """Times and memory of training steps, timed in turns; empty if not measured.

    Attributes:
        seconds: of the timed steps, by the step's name.
        peak_bytes: memory of a step: state, batch and temporary arrays.
    """

    machine: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def figures(self, run: Run) -> dict[str, float]:
        """The figures of a run's steps; empty if they were not measured."""
        name = _step_name(run)
        if name not in self.seconds:
            return {}
        return {
            "train_bytes_per_second_in_turns": run.bytes_per_step
            / statistics.median(self.seconds[name]),
            "peak_memory_bytes": float(self.peak_bytes[name]),
        }


def read_speeds(output: Path) -> Speeds:
    """The speeds in a comparison's directory."""
    path = output / SPEEDS
    return Speeds(**json.loads(path.read_text())) if path.exists() else Speeds()


def measure_speeds(runs: Sequence[Run], rounds: int, output: Path) -> None:
    """Times training steps of the runs in turns, and writes the speeds into `output`.

    In turns, a slow hour affects all contenders equally. Each step runs `rounds` times. Runs with
    identical steps, such as those of several budgets, are timed once. All are in memory at the same
    time; if they do not fit, nothing is written.
    """
    try:
        by_name = {_step_name(run): run for run in runs}
        steps = {name: _step(run) for name, run in by_name.items()}
        timings = in_turns({n: step.run for n, step in steps.items()}, rounds=rounds, warm_up=1)
    except (UserError, jax.errors.JaxRuntimeError) as error:
        say(f"the contenders could not be timed: {error}")
        return
    seconds = {name: list(timing.seconds) for name, timing in timings.items()}
    peaks = {name: step.peak_bytes for name, step in steps.items()}
    found = dataclasses.asdict(Speeds(describe_machine(), seconds, peaks))
    write_whole(output / SPEEDS, json.dumps(found, indent=2) + "\n")


def _step_name(run: Run) -> str:
    """The contender, and everything that its steps depend on."""
    config = run.config
    shape = f"{config.data.batch_size} x {config.data.sequence_length}"
    rest = config.train.accumulation, type(config.optimizer), config.mesh, config.model
    return f"{run.contender}: {shape}, {rest}"


def _step(run: Run) -> RepeatedStep:
    mesh, data = run.config.mesh.build(), run.config.data
    batch = next(iter(ValidationBatches(OpenData(data), data.batch_size, "test")))
    return repeated_step(build_program(run.config, mesh), batch, mesh)
