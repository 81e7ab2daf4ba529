"""The program of a run: from its config to compiled steps, and what they cost."""

import dataclasses
import functools
import gc
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES
from bytelm.data.rows import open_tokenizer
from bytelm.models import ModelConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import check_batch
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.optimizer import OptimizerConfig
from bytelm.training.step import TrainProgram, train_program


def build_program(config: ExperimentConfig, mesh: Mesh) -> TrainProgram:
    """The training program that a config asks for.

    The last one is kept, so that the next run shares what it compiled if it differs in nothing
    that the step depends on (`shares_program`).

    Raises:
        UserError: if the data do not supply what the model needs, or the mesh divides no batch.
    """
    check_supply(config)
    check_batch(config.data.batch_size, mesh, config.train.accumulation)
    peak = np.float32(config.optimizer.learning_rate)
    return dataclasses.replace(_program(*_parts(config), mesh), learning_rate=peak)


def shares_program(one: ExperimentConfig, other: ExperimentConfig) -> bool:
    """Whether two runs share a compiled step; seed, text and peak learning rate may differ."""
    return (one.mesh, _shapes(one), _parts(one)) == (other.mesh, _shapes(other), _parts(other))


def forget_programs() -> None:
    """Lets go of all that was compiled, and of its memory."""
    _program.cache_clear()
    gc.collect()
    jax.clear_caches()


def _parts(config: ExperimentConfig) -> tuple[Any, ...]:
    """What a program depends on, but for the mesh; the learning rate is an argument of its step."""
    optimizer = dataclasses.replace(config.optimizer, learning_rate=1.0)
    train = config.train
    return config.model, optimizer, train.steps, train.accumulation, tuple(config.data.scripts)


def _shapes(config: ExperimentConfig) -> tuple[int, ...]:
    return config.data.batch_size, config.data.sequence_length, config.data.row_length


@functools.lru_cache(maxsize=1)
def _program(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    steps: int,
    accumulation: int,
    scripts: tuple[str, ...],
    mesh: Mesh,
) -> TrainProgram:
    return train_program(model, optimizer.build(steps), mesh, accumulation, scripts)


def row_flops(config: ExperimentConfig, patches: float | None = None) -> float:
    """Matrix-product FLOPs of the forward pass of one row, as `ModelConfig.forward_flops` counts.

    With an encoder, `patches` are the states that it keeps.
    """
    data, model = config.data, config.model
    if isinstance(model, EncoderDecoderConfig):
        return model.forward_flops(data.sequence_length, patches, target_length=data.row_length)
    return model.forward_flops(data.sequence_length, patches)


def step_flops(config: ExperimentConfig, patches: float | None = None) -> float:
    """FLOPs of a training step, three forward passes, of so many patches in all its rows.

    None is for what is computed: the patches that there is room for.
    """
    rows = config.data.batch_size
    return 3.0 * rows * row_flops(config, None if patches is None else patches / rows)


def check_supply(config: ExperimentConfig) -> None:
    """Raises UserError if the data do not supply what the model needs."""
    model, data = config.model, config.data
    has_encoder = isinstance(model, EncoderDecoderConfig)
    if has_encoder and data.task == "next_byte":
        raise UserError(
            f"the family {model.family} has an encoder, and data.task is next_byte; choose a task "
            "with inputs, such as --data.task span_corruption."
        )
    if not has_encoder and data.task != "next_byte":
        raise UserError(
            f"data.task is {data.task}, and the family {model.family} has no encoder to read its "
            "inputs; choose --data.task next_byte, or a preset of byt5 or mrt5."
        )
    tokenizer = open_tokenizer(data)
    size = BYTES if tokenizer is None else tokenizer.size
    if model.symbols.size != size:
        raise UserError(
            f"the model is of {_symbols(model.symbols.size)}, and the text is of {_symbols(size)}; "
            f"{_advice(model, size)}."
        )
    if model.needs_unigram and data.unigram is None:
        raise UserError(
            "the model's boundaries are those of a SentencePiece Unigram model, and there is none: "
            "make one with `bytelm data unigram` and name it with --data.unigram."
        )
    if model.scripts and model.scripts != data.scripts:
        raise UserError(
            f"the model has bands for the scripts {', '.join(model.scripts)}, and data.scripts is "
            f"{', '.join(data.scripts) or 'empty'}; give --data.scripts {' '.join(model.scripts)}, "
            "and say with --data.script-key or --data.script which one a document has."
        )


def _symbols(size: int) -> str:
    return "bytes" if size == BYTES else f"{size} tokens"


def _advice(model: ModelConfig, size: int) -> str:
    if not isinstance(model, TransformerConfig):
        return f"the family {model.family} is of bytes alone: leave out --data.tokenizer"
    named = "name its tokenizer with --data.tokenizer, or " if size == BYTES else ""
    return f"{named}give --model.vocabulary {size}"
