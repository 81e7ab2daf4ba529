"""The runs of a comparison: their tokenizers, lengths and sizes."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bytelm.core.errors import UserError
from bytelm.core.files import make_folder, write_whole
from bytelm.core.locks import exclusive
from bytelm.core.terminal_text import say
from bytelm.data.config import DataConfig, NextByte
from bytelm.data.open_data import OpenData, training_text
from bytelm.experiments.comparison import Comparison, TokenizerConfig
from bytelm.experiments.contenders import changed
from bytelm.experiments.runs import Run
from bytelm.tokenizers.training import train_tokenizer
from bytelm.training.cost import row_flops, step_flops
from bytelm.training.entropy_models import with_entropy_model
from bytelm.training.experiment import ExperimentConfig, saved_form

TOKENIZER_BYTES = 10**8
"""Most bytes of a corpus that a tokenizer is trained on, unless a contender declares its own."""
TOLERANCE = 0.1
"""Largest distance of the nearest size from an inference budget, as a share of the budget."""
VALIDATIONS = 10
"""Validations of a run: the points of its learning curve."""
VALIDATION_BYTES = 2**16
"""Text of each validation, the same for all contenders."""

Tokenizers = Mapping[tuple[str, str], Path | None]
"""By corpus and contender, the tokenizer's file; None for bytes."""


def train_tokenizers(comparison: Comparison, output: Path) -> Tokenizers:
    """The tokenizers of all corpora and contenders; trains those that do not exist yet."""
    return {
        (corpus, name): _tokenizer(corpus, data, contender.tokenizer, output)
        for corpus, data in comparison.corpora.items()
        for name, contender in comparison.contenders.items()
    }


def _tokenizer(
    corpus: str, data: DataConfig, config: TokenizerConfig | None, output: Path
) -> Path | None:
    if config is None:
        return None
    suffix = "model" if config.kind == "unigram" else "json"
    limit = "" if config.max_bytes is None else f"-of-{config.max_bytes}"
    path = output / "tokenizers" / f"{corpus}-{config.kind}-{config.size}{limit}.{suffix}"
    make_folder(path.parent)
    with exclusive(path.with_name(f"{path.name}.lock"), f"train {path.name}"):
        if not path.exists():
            say(f"training the tokenizer {path.name}")
            texts = training_text(OpenData(data), config.max_bytes or TOKENIZER_BYTES)
            write_whole(path, train_tokenizer(texts, config.kind, config.size))
    return path


def comparison_runs(comparison: Comparison, tokenizers: Tokenizers, folder: Path) -> list[Run]:
    """All final runs, at every learning rate, in directories of `folder`.

    Counts the corpora's symbols, which packs them.

    Raises:
        UserError: for a bad source, a budget too small for one step, and a size too far from an
            inference budget.
    """
    runs = []
    for name, multiple, budget, corpus in itertools.product(
        comparison.contenders,
        comparison.learning_rates,
        sorted(comparison.budgets),
        comparison.corpora,
    ):
        sized = _sized(comparison, name, corpus, tokenizers[corpus, name], budget)
        runs += [_seeded(sized, folder, multiple, seed) for seed in comparison.seeds]
    return runs


def run_name(run: Run, corpus: str) -> str:
    """The name of the directory of a run, or of one that continues it on another corpus."""
    return f"{run.contender}-{corpus}-{run.budget:g}-lr{run.multiple:g}-s{run.seed}"


def _seeded(run: Run, folder: Path, multiple: float, seed: int) -> Run:
    """The run with a seed and a multiple of its learning rate, in a directory of `folder`."""
    rate = run.config.optimizer.learning_rate * multiple
    config = changed(run.config, {"optimizer.learning_rate": rate, "train.seed": seed})
    run = dataclasses.replace(run, config=config, multiple=multiple, seed=seed)
    return dataclasses.replace(run, directory=folder / run_name(run, run.corpus))


def _sized(
    comparison: Comparison, contender: str, corpus: str, tokenizer: Path | None, budget: float
) -> Run:
    """A run of as many steps as its budget pays for, not yet seeded.

    Training FLOPs are those of three forward passes with all slots, since all are computed.
    The bytes of a step are the mean over the corpus: a row holds START and END too.
    """
    config = _contender_config(comparison, contender, corpus, tokenizer, budget)
    symbols = bytes_per_symbol(config.data)
    if comparison.axis == "inference_flops":
        config = _nearest_size(comparison, contender, config, budget, symbols)
    flops = step_flops(config)
    size = config.data.batch_size * config.data.sequence_length * symbols
    text = budget if comparison.raw_bytes is None else comparison.raw_bytes
    unit, need = ("FLOPs", flops) if comparison.axis == "train_flops" else ("bytes of text", size)
    steps = int(text // need)
    if steps < 1:
        raise UserError(
            f"contender {contender}: a budget of {text:g} {unit} is too small for one step, which "
            f"takes {need:.3g}; give more, or smaller batches."
        )
    config = _paced(config, steps, symbols)
    return Run(Path(), contender, 0, 1.0, config, flops, size, corpus, budget)


def _contender_config(
    comparison: Comparison, name: str, corpus: str, tokenizer: Path | None, budget: float
) -> ExperimentConfig:
    """A contender's config on a corpus, without the steps and the learning rate of a run."""
    contender = comparison.contenders[name]
    own = contender.config.data
    try:
        data = dataclasses.replace(
            comparison.corpora[corpus],
            sequence_length=own.sequence_length,
            batch_size=own.batch_size,
            workers=own.workers,
            task=dataclasses.replace(
                cast(NextByte, own.task),
                tokenizer=None if tokenizer is None else str(tokenizer),
                shard_bytes=comparison.shard_bytes,
            ),
        )
        config = changed(contender.config, {"data": data, **contender.at.get(budget, {})})
        return with_entropy_model(saved_form(config))
    except UserError as error:
        raise UserError(f"contender {name} of the comparison: {error}") from None


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


def adapted_run(run: Run, corpus: str, data: DataConfig) -> Run:
    """The run that continues a trained one on the source of an adaptation."""
    data = dataclasses.replace(run.config.data, source=data.source)
    symbols = bytes_per_symbol(data)
    config = changed(run.config, {"data": data, "train.initial": str(run.directory)})
    return dataclasses.replace(
        run,
        directory=run.directory.with_name(run_name(run, corpus)),
        corpus=corpus,
        config=_paced(config, config.train.steps, symbols),
        bytes_per_step=data.batch_size * data.sequence_length * symbols,
        initial=run,
    )


def bytes_per_symbol(data: DataConfig) -> float:
    """Bytes of text per symbol of the train split, START and END included."""
    opened = OpenData(data)
    corpora = [opened.corpus(source, "train") for source in opened.sources]
    return sum(each.num_bytes for each in corpora) / sum(each.num_symbols for each in corpora)


def _paced(config: ExperimentConfig, steps: int, symbols: float) -> ExperimentConfig:
    """The config with these steps; all contenders validate on the same text."""
    every = -(-steps // VALIDATIONS)
    row_bytes = config.data.sequence_length * symbols
    changes: dict[str, Any] = {
        "train.steps": steps,
        "train.budget": None,
        "train.validate_every": every,
        "train.checkpoint_every": every,
        "train.validation_rows": max(1, round(VALIDATION_BYTES / row_bytes)),
        "train.log_every": max(1, steps // 50),
        "train.sample_bytes": 0,
        "train.tensorboard": False,
        "train.keep": 1,
    }
    return changed(config, changes)
