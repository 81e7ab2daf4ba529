"""Lengths of the runs of a comparison, and sizes of their models."""

import dataclasses
from pathlib import Path
from typing import Any

from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.data.open_data import OpenData
from bytelm.experiments.comparison import TOLERANCE, Comparison, contender_config
from bytelm.experiments.contenders import changed
from bytelm.experiments.runs import Run
from bytelm.training.cost import row_flops
from bytelm.training.experiment import ExperimentConfig

VALIDATIONS = 10
"""Validations of a run: the points of its learning curve."""
VALIDATION_BYTES = 2**16
"""Text of each validation, the same for all contenders."""


def run_name(contender: str, corpus: str, budget: float, multiple: float, seed: int) -> str:
    """The name of a run's directory."""
    return f"{contender}-{corpus}-{budget:g}-lr{multiple:g}-s{seed}"


def sized_run(
    comparison: Comparison,
    contender: str,
    corpus: str,
    tokenizer: Path | None,
    *,
    budget: float,
    seed: int,
    multiple: float,
) -> Run:
    """A run of as many steps as its budget pays for.

    Training FLOPs are those of three forward passes with all slots, since all are computed.
    The bytes of a step are the mean over the corpus: a row holds START and END too.

    Raises:
        UserError: for a bad source, a budget too small for one step, and a size too far from an
            inference budget.
    """
    config = contender_config(comparison, contender, comparison.corpora[corpus], tokenizer, budget)
    symbols = bytes_per_symbol(config.data)
    if comparison.axis == "inference_flops":
        config = _nearest_size(comparison, contender, config, budget, symbols)
    flops = 3.0 * config.data.batch_size * row_flops(config)
    size = config.data.batch_size * config.data.sequence_length * symbols
    text = budget if comparison.raw_bytes is None else comparison.raw_bytes
    steps = int(text // (flops if comparison.axis == "train_flops" else size))
    if steps < 1:
        unit, need = (
            ("FLOPs", flops) if comparison.axis == "train_flops" else ("bytes of text", size)
        )
        raise UserError(
            f"contender {contender}: a budget of {text:g} {unit} is too small for one step, which "
            f"takes {need:.3g}; give more, or smaller batches."
        )
    rate = config.optimizer.learning_rate * multiple
    config = changed(config, {"optimizer.learning_rate": rate, "train.seed": seed})
    config = _paced(config, steps, symbols)
    name = run_name(contender, corpus, budget, multiple, seed)
    return Run(name, contender, seed, multiple, config, flops, size, corpus, budget)


def adapted_run(comparison: Comparison, run: Run, name: str, run_dir: Path) -> Run:
    """The run that continues another one, in `run_dir`, on the text of the adaptation `name`."""
    data = dataclasses.replace(run.config.data, source=comparison.adaptation[name].source)
    config = changed(run.config, {"data": data, "train.initial": str(run_dir)})
    symbols = bytes_per_symbol(data)
    size = data.batch_size * data.sequence_length * symbols
    config = _paced(config, run.config.train.steps, symbols)
    return dataclasses.replace(
        run,
        name=run_name(run.contender, name, run.budget, run.multiple, run.seed),
        corpus=name,
        config=config,
        bytes_per_step=size,
        initial=run,
    )


def bytes_per_symbol(data: DataConfig) -> float:
    """Bytes of text per symbol of the train split, START and END included."""
    opened = OpenData(data)
    corpora = [opened.corpus(source, "train") for source in opened.sources]
    return sum(each.num_bytes for each in corpora) / sum(each.num_symbols for each in corpora)


def _nearest_size(
    comparison: Comparison,
    contender: str,
    config: ExperimentConfig,
    budget: float,
    symbols: float,
) -> ExperimentConfig:
    def per_byte(config: ExperimentConfig) -> float:
        return row_flops(config) / (config.data.sequence_length * symbols)

    sizes = [changed(config, size) for size in comparison.contenders[contender].sizes]
    nearest = min(sizes, key=lambda config: abs(per_byte(config) - budget))
    found = per_byte(nearest)
    if abs(found - budget) > TOLERANCE * budget:
        raise UserError(
            f"contender {contender}: the size nearest to {budget:g} FLOPs of inference for a byte "
            f"takes {found:.3g}; give it a size within {TOLERANCE:.0%}."
        )
    return nearest


def _paced(config: ExperimentConfig, steps: int, symbols: float) -> ExperimentConfig:
    """The config with these steps; all contenders validate on the same text."""
    every = -(-steps // VALIDATIONS)
    changes: dict[str, Any] = {
        "train.steps": steps,
        "train.budget": None,
        "train.validate_every": every,
        "train.checkpoint_every": every,
        "train.validation_rows": max(
            1, round(VALIDATION_BYTES / (config.data.sequence_length * symbols))
        ),
        "train.log_every": max(1, steps // 50),
        "train.sample_bytes": 0,
        "train.tensorboard": False,
        "train.keep": 1,
    }
    return changed(config, changes)
