"""A forecast as text, as values for JSON, and as a row of a table."""

from typing import Any

from bytelm.core.figure import in_powers, with_prefix
from bytelm.training.forecast.compiled import sent_by_kind
from bytelm.training.forecast.forecast import Forecast

COLUMNS = (
    "preset",
    "devices",
    "mesh",
    "micro-batches",
    "remat",
    "state",
    "activations",
    "memory",
    "sent per step",
    "step",
    "MFU at most",
    "without overlap",
    "how",
)


def text_of(found: Forecast, symbols: float | None = None) -> str:
    """All of a forecast as lines, each with where its figures come from.

    Args:
        symbols: to train on, for the cost; None for those of the config.
    """
    lines = {**_model_lines(found), **_step_lines(found), **_time_lines(found)}
    lines["cost"] = _cost(found, found.run_symbols if symbols is None else symbols)
    width = max(map(len, lines)) + 2
    rows = []
    for name, text in lines.items():
        first, *others = text.split("\n")
        rows += [f"{name:{width}}{first}", *(f"{'':{width}}{other}" for other in others)]
    return "\n".join(rows)


def short_text(found: Forecast) -> str:
    """What a dry run adds to its header: memory and time, in a line each."""
    lines = {"memory": _memory(found), "time": _cost(found, found.run_symbols)}
    return "\n".join(f"{name:12}{text}" for name, text in lines.items())


def row_of(found: Forecast, name: str) -> tuple[str, ...]:
    """A row of the table with `COLUMNS`."""
    return (
        name,
        f"{found.devices} x {found.topology.kind}",
        _mesh(found),
        str(found.config.train.accumulation),
        found.remat,
        _gigabytes(found.state.total),
        _gigabytes(found.memory - found.state.total),
        _gigabytes(found.memory),
        _gigabytes(found.sent),
        f"{found.step_seconds:.3g} s",
        f"{found.utilisation:.0%}",
        f"{found.utilisation_in_turns:.0%}",
        found.how,
    )


def values_of(found: Forecast, symbols: float | None = None) -> dict[str, Any]:
    """A forecast as JSON values; `how` says where those of a group come from."""
    step, total = found.step, found.run_symbols if symbols is None else symbols
    values: dict[str, Any] = {
        "model": {
            "how": "exact",
            "family": found.config.model.family,
            "dtype": found.dtype,
            "parameters": found.parameters,
            "parameters_without_embeddings": found.without_embeddings,
            "frozen_parameters": found.frozen,
            "parts": found.parts,
            "symbols": found.symbols,
            "symbols_per_step": found.symbols_per_step,
            "flops_per_symbol": found.flops / found.symbols_per_step,
            "flops_per_step": found.flops,
        },
        "devices": {
            "topology": found.topology.name,
            "kind": found.topology.kind,
            "mesh": found.mesh,
            "memory_bytes": found.topology.memory,
            "peak_flops": found.peak_flops / found.devices,
        },
        "state": {
            "how": "exact",
            "parameters_bytes": found.state.parameters,
            "optimizer_bytes": found.state.optimizer,
        },
        "memory": {"how": found.how, "bytes": found.memory},
        "activations": {
            remat: {"how": found.how if remat == found.remat else "estimated", "bytes": size}
            for remat, size in found.temporary.items()
        },
        "exchanges": {"how": found.how, "sent_bytes": found.sent, "by_kind": _by_kind(found)},
        "time": {
            "how": "estimated",
            "work_seconds": found.work_seconds,
            "exchange_seconds": found.exchange_seconds,
            "step_seconds_at_least": found.step_seconds,
            "utilisation_at_most": found.utilisation,
            "utilisation_without_overlap": found.utilisation_in_turns,
        },
        "cost": {
            "how": "estimated",
            found.symbols: total,
            "device_hours_at_least": None if total is None else found.device_hours(total),
        },
    }
    if step is not None:
        values["program"] = {
            "how": found.how,
            "flops": step.flops,
            "traffic_bytes": step.traffic,
        }
    return values


def _by_kind(found: Forecast) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "dtype": dtype, "calls": calls, "sent_bytes": sent}
        for (kind, dtype), (calls, sent) in sent_by_kind(found.exchanges).items()
    ]


def _model_lines(found: Forecast) -> dict[str, str]:
    frozen = f", and {found.frozen:,} frozen" if found.frozen else ""
    parts = ", ".join(
        f"{name} {with_prefix(size, '').strip()}" for name, size in found.parts.items()
    )
    rows, length = found.config.data.batch_size, found.config.data.sequence_length
    available = len(found.topology.devices)
    of_them = f" of {available}" if available > found.devices else ""
    return {
        "model": f"{found.config.model.family}, {found.parameters:,} parameters "
        f"({found.without_embeddings:,} without embeddings and head){frozen}, {found.dtype} "
        f"(exact)\n{parts}",
        "devices": f"{found.devices}{of_them} x {found.topology.kind}: {_mesh(found)}",
        "step": f"{rows:,} rows of {length:,} {found.symbols}"
        f"{_micro_batches(found)}: "
        f"{with_prefix(found.symbols_per_step, 'B' if found.symbols == 'bytes' else ' tokens')}; "
        f"{with_prefix(found.flops / found.symbols_per_step, 'FLOP')} per "
        f"{found.symbols.removesuffix('s')}, {with_prefix(found.flops, 'FLOP')} (exact)",
    }


def _step_lines(found: Forecast) -> dict[str, str]:
    step, lines = found.step, {"memory": _memory(found)}
    if len(found.temporary) > 1:
        each = (f"{remat} {_gigabytes(size)}" for remat, size in found.temporary.items())
        others = "estimated" if step is None else f"estimated, but for {found.remat}"
        lines["remat"] = f"activations with {', '.join(each)} ({others})"
    if step is not None:
        lines["program"] = (
            f"on each device {with_prefix(step.flops, 'FLOP')}, "
            f"{step.flops * found.devices / found.flops:.2f} times the model's share, and "
            f"{with_prefix(step.traffic, 'B')} of memory traffic ({_how(found)})"
        )
    sent = [
        f"{kind} {dtype}: {calls:,.0f} calls, {with_prefix(size, 'B')}"
        for (kind, dtype), (calls, size) in sent_by_kind(found.exchanges).items()
    ]
    if sent:
        lines["exchange"] = "\n".join([*sent, f"sent by each device ({_how(found)})"])
    return lines


def _time_lines(found: Forecast) -> dict[str, str]:
    peak = with_prefix(found.peak_flops / found.devices, "FLOP/s")
    knows_traffic = found.step is not None and found.topology.chip is not None
    work = "arithmetic and memory" if knows_traffic else "arithmetic"
    rates = "and the vendor's rates" if found.topology.chip else "alone"
    return {
        "time": f"at least {_seconds(found.step_seconds)} a step: {work} "
        f"{_seconds(found.work_seconds)}, exchange {_seconds(found.exchange_seconds)} (estimated "
        f"from the peak of {peak} {rates})",
        "utilisation": f"at most {found.utilisation:.0%} of the peak, "
        f"{found.utilisation_in_turns:.0%} if no exchange is hidden by work (estimated)",
    }


def _memory(found: Forecast) -> str:
    available = found.topology.memory
    of_them = f" of {_gigabytes(available)}" if available else ""
    rest = found.memory - found.state.total
    return (
        f"{_gigabytes(found.memory)}{of_them} on each device: parameters "
        f"{_gigabytes(found.state.parameters)} and optimiser {_gigabytes(found.state.optimizer)} "
        f"(exact), activations {_gigabytes(rest)} ({_how(found)})"
    )


def _cost(found: Forecast, symbols: float | None) -> str:
    if symbols is None:
        return (
            f"not known: train.budget is {found.config.train.budget!r}, and how many "
            f"{found.symbols} that is depends on the text; give --bytes"
        )
    hours = found.device_hours(symbols)
    days = hours / found.devices / 24
    return (
        f"{in_powers(symbols)} {found.symbols}: at least {_hours(hours)} of a device, "
        f"{_days(days)} on {found.devices} (estimated)"
    )


def _how(found: Forecast) -> str:
    if found.step is None:
        return "estimated"
    if found.topology.is_itself:
        return f"measured: compiled for {found.topology.kind}"
    return "estimated: compiled for this CPU"


def _micro_batches(found: Forecast) -> str:
    count = found.config.train.accumulation
    return f" in {count} micro-batches" if count > 1 else ""


def _mesh(found: Forecast) -> str:
    return ", ".join(f"{name} {size}" for name, size in found.mesh.items())


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else with_prefix(size, "B")


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


def _hours(hours: float) -> str:
    return f"{hours:,.0f} hours" if hours >= 10 else f"{hours:.2g} hours"


def _days(days: float) -> str:
    return f"{days:,.1f} days" if days >= 1 else f"{24 * days:.2g} hours"
