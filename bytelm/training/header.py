"""The header of a run: the model, its cost, the text and the machine."""

from pathlib import Path
from typing import Any

import jax

from bytelm.core.figure import with_prefix
from bytelm.data.open_data import OpenData
from bytelm.data.run_text import text_size
from bytelm.models.parameters import count_parameters
from bytelm.training.cost import step_flops
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.validation import Validation


def run_facts(
    config: ExperimentConfig, open_data: OpenData, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """The facts of a run as JSON values, of a config with its steps (`with_steps`)."""
    train, data, size = config.train, config.data, text_size(open_data)
    parameters, without_embeddings = count_parameters(config.model)
    step_bytes = data.batch_size * size.bytes_per_row
    flops = step_flops(config)
    epoch_steps = None if size.rows is None else size.rows / data.batch_size
    return {
        "family": config.model.family,
        "parameters": parameters,
        "parameters_without_embeddings": without_embeddings,
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
        "text": list(size.names),
        "epochs": None if epoch_steps is None else train.steps / epoch_steps,
        "context_bytes": size.bytes_per_row,
        "flops_per_byte": flops / step_bytes,
        "flops": train.steps * flops,
    }


def header(facts: dict[str, Any], validation: Validation, run_dir: Path) -> str:
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
    lines = {
        "model": f"{facts['family']}, {facts['parameters']:,} parameters "
        f"({facts['parameters_without_embeddings']:,} without embeddings and head), "
        f"{facts['dtype']}",
        "devices": f"{facts['devices']} x {facts['device']}: {mesh}",
        "steps": f"{facts['steps']:,}{budget} of {facts['rows_per_step']:,} rows of {length:,} "
        f"{symbols}: {with_prefix(facts['bytes_per_step'], 'B')} a step, "
        f"{with_prefix(facts['bytes'], 'B')} in all",
        "text": text,
        "validation": _validation(validation),
        "FLOPs": f"{with_prefix(facts['flops_per_byte'], 'FLOP')} per byte, "
        f"{facts['flops']:.3g} for the run",
        "context": context,
        "run": str(run_dir),
    }
    if idle:
        lines["devices"] += (
            f"; warning: {idle} of {total} devices stay idle: data x fsdp x tensor of --mesh must "
            f"be {total} to use all"
        )
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:{width}}{line}" for name, line in lines.items())


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _validation(validation: Validation) -> str:
    sources = validation.text.sources
    if len(sources) == 1:
        return f"{len(sources[0].rows):,} rows of {sources[0].origin}"
    each = "; ".join(
        f"{source.name}: {len(source.rows):,} of {source.origin}" for source in sources
    )
    return f"rows by source: {each}"
