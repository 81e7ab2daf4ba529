"""What a run costs: FLOPs, the steps that a budget pays for, and the header that shows them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bytelm.core.errors import UserError
from bytelm.core.figure import with_prefix
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import text_size
from bytelm.data.validation import ValidationText
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.entropy_patches import entropy_patches
from bytelm.models.parameters import count_frozen, count_parameters
from bytelm.training.experiment import ExperimentConfig, parse_budget


def row_flops(config: ExperimentConfig, patches: float | None = None) -> float:
    """`ModelConfig.forward_flops` of one row."""
    data, model = config.data, config.model
    if isinstance(model, EncoderDecoderConfig):
        return model.forward_flops(data.sequence_length, patches, target_length=data.row_length)
    return model.forward_flops(data.sequence_length, patches)


def step_flops(config: ExperimentConfig, patches: float | None = None) -> float:
    """FLOPs of a training step: three times those of the forward pass and of draft heads.

    Those of what is not trained count once, and of an entropy model whose entropies are stored
    not at all.

    Args:
        patches: in all rows of the step (with an encoder: states that it keeps); None for the
            capacity, which is computed.
    """
    rows, model, length = config.data.batch_size, config.model, config.data.sequence_length
    of_row = None if patches is None else patches / rows
    forward, frozen = row_flops(config, of_row), model.frozen_flops(length, of_row)
    patches_of = entropy_patches(model)
    stored = patches_of is not None and patches_of.stored
    unused = patches_of.frozen_flops(length) if patches_of is not None and stored else 0.0
    return rows * (3.0 * (forward - frozen + model.draft_flops(length)) + frozen - unused)


def with_steps(config: ExperimentConfig, data: OpenData) -> ExperimentConfig:
    """The config with the steps that `train.budget` pays for; without a budget, the config itself.

    Bytes and FLOPs are never exceeded; epochs are rounded to the nearest step. The budget stays in
    the config.

    Raises:
        UserError: for a budget too small for one step, epochs of text without end, or a bad source.
    """
    if config.train.budget is None:
        return config
    (amount, unit), rows, needed = parse_budget(config.train.budget), config.data.batch_size, ""
    if unit == "epochs":
        all_rows = text_size(data).rows
        if all_rows is None:
            raise UserError(
                f"train.budget is {config.train.budget!r}, and the size of "
                f"{' and '.join(data.names)} is not known: give bytes or flops."
            )
        steps = round(amount * all_rows / rows)
    else:
        cost = step_flops(config) if unit == "flops" else rows * text_size(data).bytes_per_row
        steps, needed = int(amount / cost), f", which takes {cost:.3g} {unit}"
    if steps < 1:
        raise UserError(
            f"train.budget is {config.train.budget!r}, too little for one step{needed}; give "
            "more, or smaller batches."
        )
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def run_facts(config: ExperimentConfig, open_data: OpenData, mesh: Mesh) -> dict[str, Any]:
    """The facts of a run as JSON values, of a config with its steps (`with_steps`)."""
    train, data, size = config.train, config.data, text_size(open_data)
    parameters, without_embeddings = count_parameters(config.model)
    step_bytes = data.batch_size * size.bytes_per_row
    flops, frozen = step_flops(config), config.model.frozen_flops(data.sequence_length)
    epoch_steps = None if size.rows is None else size.rows / data.batch_size
    return {
        "family": config.model.family,
        "parameters": parameters,
        "parameters_without_embeddings": without_embeddings,
        "frozen_parameters": count_frozen(config.model),
        "dtype": config.model.dtype.name,
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "idle_devices": jax.device_count() - mesh.size,
        "mesh": dict(mesh.shape),
        "processes": jax.process_count(),
        "steps": train.steps,
        "budget": train.budget,
        "rows_per_step": data.batch_size,
        "symbols_per_row": data.sequence_length,
        "symbols": "bytes" if data.task.tokenizer is None else "tokens",
        "bytes_per_step": step_bytes,
        "bytes": train.steps * step_bytes,
        "text_bytes": size.bytes,
        "text": list(open_data.names),
        "epochs": None if epoch_steps is None else train.steps / epoch_steps,
        "context_bytes": size.bytes_per_row,
        "flops_per_byte": flops / step_bytes,
        "flops": train.steps * flops,
        "frozen_flops_per_byte": data.batch_size * frozen / step_bytes,
    }


def header(facts: dict[str, Any], validation: ValidationText, run_dir: Path) -> str:
    """The facts of a run as readable lines."""
    mesh = ", ".join(f"{name} {size}" for name, size in facts["mesh"].items())
    idle = facts["idle_devices"]
    total = facts["devices"] + idle
    symbols, length = facts["symbols"], facts["symbols_per_row"]
    budget = "" if facts["budget"] is None else f" (for {facts['budget']})"
    if facts["text_bytes"] is None:
        text = f"{_few(facts['text'])}: without end, or of unknown size"
    else:
        size = with_prefix(facts["text_bytes"], "B")
        text = f"{size} of {_few(facts['text'])}: {facts['epochs']:.3g} epochs"
    context = f"{length:,} {symbols}"
    if symbols == "tokens":
        context += f", about {facts['context_bytes']:,.0f} bytes"
    frozen = facts["frozen_parameters"]
    carried = f", and {frozen:,} frozen" if frozen else ""
    of_them = f" ({with_prefix(facts['frozen_flops_per_byte'], 'FLOP')} frozen)" if frozen else ""
    lines = {
        "model": f"{facts['family']}, {facts['parameters']:,} parameters "
        f"({facts['parameters_without_embeddings']:,} without embeddings and head)"
        f"{carried}, {facts['dtype']}",
        "devices": f"{facts['devices']} x {facts['device']}: {mesh}",
        "steps": f"{facts['steps']:,}{budget} of {facts['rows_per_step']:,} rows of {length:,} "
        f"{symbols}: {with_prefix(facts['bytes_per_step'], 'B')} a step, "
        f"{with_prefix(facts['bytes'], 'B')} in all",
        "text": text,
        "validation": _validation(validation),
        "FLOPs": f"{with_prefix(facts['flops_per_byte'], 'FLOP')} per byte{of_them}, "
        f"{facts['flops']:.3g} for the run",
        "context": context,
        "run": str(run_dir),
    }
    if idle:
        lines["devices"] += (
            f"; warning: {idle} of {total} devices stay idle: the axes of --mesh must multiply "
            f"to {total} to use all"
        )
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:{width}}{line}" for name, line in lines.items())


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _validation(text: ValidationText) -> str:
    if len(text.sources) == 1:
        return f"{len(text.sources[0].rows):,} rows of {text.sources[0].origin}"
    each = "; ".join(
        f"{source.name}: {len(source.rows):,} of {source.origin}" for source in text.sources
    )
    return f"rows by source: {each}"
