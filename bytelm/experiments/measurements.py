"""The figures of a comparison's runs: what each is tested on, and what it costs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bytelm.api import LoadedModel, load
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.data.loader import ValidationBatches
from bytelm.data.open_data import Documents, OpenData
from bytelm.evaluation.first_bytes import FirstBytes
from bytelm.evaluation.languages import Languages
from bytelm.evaluation.report import Result
from bytelm.evaluation.robustness import Robustness
from bytelm.evaluation.suite import Scoring
from bytelm.evaluation.text import GivenText
from bytelm.experiments.comparison import Comparison
from bytelm.experiments.runs import metrics
from bytelm.models.parameters import count_parameters
from bytelm.nn.mesh import place_batch
from bytelm.training.cost import row_flops
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.program import build_program

BATCH = 16
"""Windows scored at a time."""


def test_figures(
    run_dir: Path, config: ExperimentConfig, *, comparison: Comparison, whole: bool
) -> dict[str, Any]:
    """The report of a run that is trained, ready for JSON.

    Args:
        run_dir: of the run.
        config: of the run.
        comparison: what to test.
        whole: whether to test perturbed and parallel text too.

    Returns:
        `figures`, as `RunRecord` names them, and `document_bits` and `document_bytes`.

    Raises:
        UserError: for a run that diverged.
    """
    loaded = load(run_dir, config.train.steps)
    data = OpenData(config.data)
    first = FirstBytes(Documents(data, "test"), comparison.max_bytes)
    documents = list(first)
    report, symbols = text_figures(loaded, documents, cut=first.cut)
    figures: dict[str, float] = report["figures"]
    figures |= training_speed(metrics(run_dir)) | parameter_counts(config)
    figures |= _inference(config, data, loaded, symbols)
    if data.tokenizer is not None:
        figures["bytes_per_token"] = sum(report["document_bytes"]) / symbols
    if whole and comparison.robustness is not None:
        wanted = comparison.robustness
        text = GivenText(tuple(beginnings(documents, wanted.max_bytes)))
        noise = Robustness(wanted.kinds, wanted.rates)
        figures |= _values(noise.run(loaded, text, Scoring(batch_size=BATCH)))
    if whole and comparison.parallel:
        parallel = Languages(comparison.parallel)
        figures |= _values(parallel.run(loaded, GivenText(()), Scoring(batch_size=BATCH)))
    return report


def _values(result: Result) -> dict[str, float]:
    """The figures of an evaluation, and the ends of intervals of premiums."""
    values = {}
    for figure in result.figures:
        values[figure.name] = figure.value
        if figure.interval and figure.name.endswith("premium"):
            values[f"{figure.name}_low"], values[f"{figure.name}_high"] = figure.interval
    return values


def text_figures(
    loaded: LoadedModel, documents: Sequence[bytes], *, cut: bool = False
) -> tuple[dict[str, Any], int]:
    """What a decoder makes of documents.

    Args:
        loaded: the model.
        documents: whole, but for the last one if it is `cut`.
        cut: whether it is, so that its END does not count.

    Returns:
        a report ready for JSON (`figures`: bits per byte and the ends of its interval, as
        `RunRecord` names them; `document_bits` and `document_bytes`), and the symbols scored.

    Raises:
        UserError: for a model that diverged.
    """
    scores = loaded.score_documents(documents, batch_size=BATCH)
    scores = scores.without_last_end() if cut else scores
    bits = scores.bits_per_byte()
    if not math.isfinite(bits):
        raise UserError(f"its test bits per byte are {bits}: it diverged.")
    interval = scores.interval()
    report = {
        "figures": {
            "bpb": bits,
            **({} if interval is None else {"bpb_low": interval[0], "bpb_high": interval[1]}),
            "bpb_with_end": scores.bits_per_byte(with_end=True),
        },
        "document_bits": scores.bits().tolist(),
        "document_bytes": scores.bytes.tolist(),
    }
    return report, int(scores.symbols.sum())


def beginnings(documents: Sequence[bytes], max_bytes: int) -> list[bytes]:
    """As many bytes from the beginning of each document, about `max_bytes` of all at most."""
    share = -(-max_bytes // len(documents))
    return [document[:share] for document in documents]


def adaptation_figures(
    run_dir: Path,
    config: ExperimentConfig,
    *,
    name: str,
    before: Path,
    home: DataConfig,
    max_bytes: int | None,
) -> dict[str, Any]:
    """What a run that went on from another one, on other text, learned and forgot.

    Args:
        run_dir: of the run.
        config: of the run.
        name: of the adaptation.
        before: directory of the run that it went on from.
        home: the text of that one.
        max_bytes: of each test.

    Returns:
        `figures` named `adapted/NAME/` and: `before` and `bpb`, bits per byte of the new text's
        test before and behind; `early`, of its validation after a tenth of the training;
        `forgetting`, by how much the bits per byte of the old text's test rose.
    """
    old, new = load(before), load(run_dir, config.train.steps)

    def bits(loaded: LoadedModel, data: DataConfig) -> float:
        documents = FirstBytes(Documents(OpenData(data), "test"), max_bytes)
        return loaded.score_documents(documents, batch_size=BATCH).bits_per_byte()

    validations = [r["validation_bpb"] for r in metrics(run_dir) if "validation_bpb" in r]
    figures = {
        "before": bits(old, config.data),
        "bpb": bits(new, config.data),
        "early": validations[0],
        "forgetting": bits(new, home) - bits(old, home),
    }
    return {"figures": {f"adapted/{name}/{key}": value for key, value in figures.items()}}


def curve(
    records: Sequence[Mapping[str, Any]],
    flops_per_step: float,
    bytes_per_step: float,
    measure: str = "validation_bpb",
) -> tuple[tuple[float, float, float], ...]:
    """Validations as (FLOPs of training, bytes of text, bits), of the metric `measure`."""
    return tuple(
        (r["step"] * flops_per_step, r["step"] * bytes_per_step, r[measure])
        for r in records
        if r.get(measure) is not None
    )


def training_speed(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median of the records."""
    speeds = [r["bytes_per_second"] for r in records if r.get("bytes_per_second")]
    found = {"train_bytes_per_second": float(np.median(speeds))} if speeds else {}
    if records and "compile_seconds" in records[-1]:
        found["compile_seconds"] = records[-1]["compile_seconds"]
        found["training_seconds"] = records[-1]["seconds"]
    return found


def parameter_counts(config: ExperimentConfig) -> dict[str, float]:
    """How many parameters there are, and how many without embeddings and the head."""
    total, rest = count_parameters(config.model)
    return {"parameters": float(total), "parameters_without_embeddings": float(rest)}


def _inference(
    config: ExperimentConfig, data: OpenData, loaded: LoadedModel, symbols: int
) -> dict[str, float]:
    """FLOPs of a forward pass for a byte of the test text, of the patches that it had and of those
    that there is room for; and its bytes per patch.

    Args:
        config: of the run.
        data: its text.
        loaded: its model.
        symbols: how many of the test split, from its beginning, as packed rows.
    """
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
    figures = {
        "inference_flops_per_byte": row_flops(config, patches / rows if patches else None)
        * rows
        / size,
        "inference_flops_per_byte_capacity": row_flops(config) * rows / size,
        "context_bytes": size / rows,
    }
    if patches:
        figures["bytes_per_patch"] = size / patches
    return figures
