"""What is known of an ablation's points: the table, the differences from the baseline, the plot."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from bytelm.core.atomic_write import write_whole
from bytelm.core.console import TerminalConsole
from bytelm.experiments.measurements import curve, parameter_counts, training_speed
from bytelm.experiments.record import RunRecord, SweepRow
from bytelm.experiments.report.charts import MEASURES, Chart, curve_charts, pareto_charts
from bytelm.experiments.report.plot import plot_charts
from bytelm.experiments.report.sections import (
    bound,
    differences_section,
    mean_of,
    runs_done,
    setting,
    sweep_section,
)
from bytelm.experiments.report.summary import Entry, gather, paired_difference
from bytelm.experiments.report.table import (
    bits,
    interval,
    known,
    markdown,
    signed,
    state,
    tabulate,
    whole,
)
from bytelm.experiments.report.write import captioned, runs_csv
from bytelm.experiments.runs import metrics
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.cost import row_flops
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.hardware import describe_machine


def finished(
    record: RunRecord, config: ExperimentConfig, run_dir: Path, report: Mapping[str, Any]
) -> RunRecord:
    """The record with the figures of its config, its run and its test report.

    Besides those of the test: `validation_bits`, `bytes_per_patch` and `overflow` of the last
    validation (the last is the share of patches that found no room), `parameters`,
    `forward_flops_per_byte` (of a row's forward pass, with all patches that it has room for),
    `train_bytes_per_second`, and with an encoder `kept`, the share of inputs not deleted.
    """
    records = metrics(run_dir)
    measure = "bits_per_target_byte" if _has_encoder(config) else "bpb"
    figures = dict(report["figures"])
    for name, metric in {
        "validation_bits": f"validation_{measure}",
        "bytes_per_patch": "validation/bytes_per_patch",
        "overflow": "validation/overflow",
    }.items():
        values = [r[metric] for r in records if r.get(metric) is not None]
        if values:
            figures[name] = values[-1]
    if "deleted" in figures:
        figures["kept"] = 1 - figures["deleted"]
    figures |= training_speed(records) | parameter_counts(config)
    figures["forward_flops_per_byte"] = row_flops(config) / config.data.sequence_length
    size = config.data.batch_size * config.data.sequence_length
    flops = 3 * config.data.batch_size * row_flops(config)
    return dataclasses.replace(
        record,
        figures=figures,
        document_bits=tuple(report["document_bits"]),
        document_bytes=tuple(report["document_bytes"]),
        curve=curve(records, flops, size, f"validation_{measure}"),
    )


def _has_encoder(config: ExperimentConfig) -> bool:
    return isinstance(config.model, EncoderDecoderConfig)


@dataclasses.dataclass(frozen=True)
class AblationResults:
    """What is known of an ablation.

    Attributes:
        reference: the point from which differences are taken.
        changes: of each point: the fields, by dotted path, in which it differs from the base.
        records: of the runs; a record's `contender` is its point.
        sweep: the learning rates that were tried.
        has_encoder: whether bits are of targets.
        same_seeds: whether all points have the same seeds, which are then compared in pairs.
    """

    reference: str
    changes: Mapping[str, Mapping[str, Any]]
    records: tuple[RunRecord, ...]
    sweep: tuple[SweepRow, ...]
    has_encoder: bool
    same_seeds: bool

    @property
    def measure(self) -> str:
        """Name of the bits that are compared."""
        return "bits_per_target_byte" if self.has_encoder else "bpb"

    @property
    def entries(self) -> list[Entry]:
        """The points, each with its runs."""
        return gather(self.records)

    def write(self, output: Path, max_bytes: int | None, *, images: bool) -> None:
        """Writes `table.md` for people, `table.json` and `runs.csv` for programs, `plot.png`."""
        entries, words = self.entries, MEASURES[self.measure]
        text = [markdown(tabulate(entries, self._columns)).rstrip()]
        sections = [
            differences_section(
                self.reference, entries, "point", words, same_seeds=self.same_seeds
            ),
            sweep_section(self.sweep, "point", words),
        ]
        for section in sections:
            text += [*section.sentences, *(captioned(table) for table in section.tables)]
        write_whole(output / "table.md", "\n\n".join(text) + "\n")
        write_whole(output / "table.json", json.dumps(self._json(max_bytes), indent=2) + "\n")
        write_whole(output / "runs.csv", runs_csv(self.records))
        if images:
            plot_charts(self.charts, output / "plot.png")

    def show(self, console: Console | None = None) -> None:
        """Shows the columns of the table that fit a terminal."""
        table = tabulate(self.entries, {name: self._columns[name] for name in self._shown})
        shown = RichTable(*table.columns)
        for row in table.rows:
            shown.add_row(*row)
        (console or TerminalConsole()).print(shown, markup=False)

    @property
    def charts(self) -> list[Chart]:
        """Test bits against patches' length or inputs kept, and against FLOPs; learning curves."""
        entries, measure = self.entries, self.measure
        draw = functools.partial(pareto_charts, entries, axis=None, by_budget=True, measure=measure)
        if self.has_encoder:
            charts = draw("kept", "share of the inputs kept")
        else:
            # Longer patches are no cost: no front.
            charts = [
                dataclasses.replace(chart, front=())
                for chart in draw("bytes_per_patch", "bytes per patch")
            ]
            charts += draw("forward_flops_per_byte", "forward FLOPs per byte")
        return [*charts, *curve_charts(entries, None, measure=measure)]

    def _json(self, max_bytes: int | None) -> dict[str, Any]:
        return {
            "max_bytes": max_bytes,
            "machine": describe_machine(),
            "baseline": self.reference,
            "points": [self._point(entry) for entry in self.entries],
            "sweep": [row._asdict() for row in self.sweep],
        }

    def _point(self, entry: Entry) -> dict[str, Any]:
        names = dict.fromkeys(name for run in entry.done for name in run.figures)
        difference = self._difference(entry)
        where, reason = _standing(entry)
        return {
            "point": entry.contender,
            "changes": self.changes[entry.contender],
            "state": where,
            "reason": reason,
            "figures": {name: entry.mean(name) for name in names},
            "over_seeds": entry.spread(self.measure),
            "difference": difference and dataclasses.asdict(difference),
            "runs": [
                {
                    name: value
                    for name, value in dataclasses.asdict(run).items()
                    if name not in ("contender", "corpus", "budget")
                }
                for run in entry.runs
            ],
        }

    def _difference(self, entry: Entry) -> Any:
        baseline = next(e for e in self.entries if e.contender == self.reference)
        if entry.contender == self.reference:
            return None
        return paired_difference(entry, baseline, same_seeds=self.same_seeds)

    @property
    def _columns(self) -> dict[str, Callable[[Entry], str]]:
        measure = self.measure
        short = "bits/target byte" if self.has_encoder else "bpb"

        def less(entry: Entry) -> str:
            found = self._difference(entry)
            return "" if found is None else signed(found.bpb, found.sign)

        return {
            "point": lambda entry: entry.contender,
            "runs done": runs_done,
            f"test {short}": lambda entry: bits(entry.mean(measure), bound(entry)),
            "95% interval": lambda entry: interval(entry.interval(measure)),
            "over seeds": lambda entry: interval(entry.spread(measure)),
            f"less {self.reference}": less,
            "exact match": mean_of("exact_match", lambda v: known(v, ".2%")),
            "deleted": mean_of("deleted", lambda v: known(v, ".2%")),
            "encoder time saved": mean_of("encoder_time_saved", lambda v: known(v, ".1%")),
            f"validation {short}": mean_of("validation_bits", bits),
            "bytes/patch": mean_of("bytes_per_patch", lambda v: known(v, ".2f")),
            "overflow": mean_of("overflow", lambda v: known(v, ".2%")),
            "training bytes/s": mean_of("train_bytes_per_second", whole),
            "parameters": mean_of("parameters", whole),
            "without embeddings": mean_of("parameters_without_embeddings", whole),
            "forward FLOP/byte": mean_of("forward_flops_per_byte", whole),
            "learning rate": lambda entry: setting(entry.runs[0].learning_rate),
            "state": lambda entry: state(*_standing(entry)),
        }

    @property
    def _shown(self) -> list[str]:
        """The columns that fit a terminal."""
        left_out = "validation overflow training parameters without forward encoder learning"
        return [name for name in self._columns if name.split()[0] not in left_out.split()]


def _standing(entry: Entry) -> tuple[str, str]:
    """How the runs of a point stand: as the first of them that is not done, and why."""
    unfinished = [run for run in entry.runs if run.state != "done"]
    return (unfinished[0].state, unfinished[0].reason) if unfinished else ("done", "")
