"""Finds runs and the reports of their evaluations, of this version and of older ones."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bytelm.core.chart import Chart
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.core.places import is_address, objects
from bytelm.core.terminal_text import number_of, printable_name
from bytelm.evaluation.report import Items
from bytelm.evaluation.suite import Evaluation
from bytelm.evaluation.text import shared_windows
from bytelm.experiments.runs import TEST_REPORT
from bytelm.inference.scoring import default_stride
from bytelm.training.metrics.writer import read_records
from bytelm.training.run_directory import CONFIG
from bytelm.training.upgrades import upgraded

REPORTS = "eval_*.json"
"""Reports of evaluations in a run directory."""


@dataclass(frozen=True, eq=False)
class FoundRun:
    """A run.

    Attributes:
        label: unique among the runs of a table.
        options: of its config, by path, such as "optimizer.learning_rate".
        records: of its metrics.
    """

    label: str
    options: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]] = ()

    @property
    def symbols(self) -> int | None:
        """The length of its training rows."""
        return self.options.get("data.sequence_length")


class ScoredText(NamedTuple):
    """What tells the texts of two reports apart, and a text in words."""

    identity: str
    words: str


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures of one checkpoint on one text with one choice of settings.

    Attributes:
        settings: those that change figures and are no defaults, in words.
        trained_on: how much of the text the run was trained on: "" if nothing, "unknown" without a
            record, else such as "1,000 of 20,000 bytes", or the share of its windows.
        items: by figure, its parts for paired differences.
    """

    run: FoundRun
    step: int
    text: ScoredText
    settings: tuple[str, ...]
    trained_on: str
    figures: dict[str, Figure] = field(default_factory=dict)
    items: dict[str, Items] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)

    @property
    def place(self) -> tuple[Any, ...]:
        """What two parts of one row have in common."""
        return self.run.label, self.step, self.text.identity, self.settings

    def merge(self, other: "Measured") -> None:
        """Adds what another report of the same row holds; that counts where both have a figure."""
        self.figures.update(other.figures)
        self.items.update(other.items)
        self.charts.update(other.charts)


def collect(places: Sequence[Path]) -> tuple[list[FoundRun], list[Measured]]:
    """The runs in folders, at any depth, and the figures of all reports, those of one row merged.

    Args:
        places: folders, or files of reports that `bytelm eval --output` wrote elsewhere.

    Raises:
        UserError: for a place that holds neither, and for a damaged report.
    """
    folders: dict[Path, Path] = {}  # by real path: a folder may be named in two spellings
    files: list[Path] = []
    for place in places:
        if place.is_file():
            files.append(place)
            continue
        if not place.is_dir():
            raise UserError(f"{place} does not exist; name folders of runs, or reports.")
        found = list(_run_folders(place))
        if not found:
            raise UserError(
                f"{place} holds no runs: no folder in it has a {CONFIG} of bytelm's; name run "
                "directories, or folders of them."
            )
        for path in found:
            folders.setdefault(path.resolve(), path)
    runs = {path: _read_run(path, label) for path, label in _labels([*folders.values()]).items()}
    parts: list[Measured] = []
    for path, run in runs.items():
        for file in sorted(path.glob(REPORTS), key=lambda file: file.stat().st_mtime):
            parts += _read_report(file, run)
        if (path / TEST_REPORT).is_file():
            parts += _read_report(path / TEST_REPORT, run)
    by_name = {path.name: run for path, run in runs.items()}
    for file in files:
        parts += _read_report(file, by_name)
    rows: dict[tuple[Any, ...], Measured] = {}
    for part in parts:
        if (row := rows.setdefault(part.place, part)) is not part:
            row.merge(part)
    return list(runs.values()), list(rows.values())


def _run_folders(place: Path) -> Iterator[Path]:
    """The run directories in a folder; those inside another, such as runs set aside, are left."""
    if is_address(place):
        parents = {name.rpartition("/")[0] for name in objects(place) if Path(name).name == CONFIG}
        found = [place / name if name else place for name in sorted(parents)]
        runs = [folder for folder in found if _saved_config(folder)]
        yield from (run for run in runs if not any(other in run.parents for other in runs))
        return
    for folder, inside, names in os.walk(place):
        if CONFIG in names and _saved_config(Path(folder)):
            inside.clear()
            yield Path(folder).absolute()
        inside.sort()


def _saved_config(run: Path) -> dict[str, Any]:
    """The saved config of a run in the present form; empty if it is none of ours."""
    try:
        saved = json.loads((run / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(saved, dict) or not {"model", "data", "train"} <= saved.keys():
        return {}
    found: dict[str, Any] = upgraded(saved)
    return found


def _labels(folders: Sequence[Path]) -> dict[Path, str]:
    """A unique name for each run: the last parts of its path, as many as are needed."""
    labels: dict[Path, str] = {}
    for folder in folders:
        for length in range(1, len(folder.parts) + 1):
            ending = folder.parts[-length:]
            if Counter(other.parts[-length:] for other in folders)[ending] == 1:
                break
        labels[folder] = printable_name("/".join(ending))
    return labels


def _read_run(path: Path, label: str) -> FoundRun:
    metrics = path / "metrics.jsonl"
    records = read_records(metrics) if metrics.is_file() else []
    return FoundRun(label, dict(_flat(_saved_config(path))), records)


def _flat(config: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a config in JSON values, by path."""
    if not isinstance(config, dict) or not config:
        yield where, config
        return
    for key, value in config.items():
        yield from _flat(value, f"{where}.{key}" if where else key)


def _read_report(file: Path, runs: FoundRun | Mapping[str, FoundRun]) -> list[Measured]:
    """The parts of a report, of a run or of the one it names."""
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found.get("figures"), dict):
            raise TypeError("it has no figures")
        if file.name == TEST_REPORT:
            found = _of_test(found)
        step = found["checkpoint"]["step"] if "checkpoint" in found else found["step"]
        name = found.get("checkpoint", {}).get("run") or file.stem
        run = runs if isinstance(runs, FoundRun) else runs.get(name, FoundRun(name, {}))
        return _parts(found, run, step)
    except (ValueError, TypeError, AttributeError, LookupError, OSError) as error:
        raise UserError(
            f"{file} is no report of an evaluation, or is damaged ({error}); take it out."
        ) from error


def _of_test(found: dict[str, Any]) -> dict[str, Any]:
    """The test of an ablation or a comparison in the form of a report.

    Its figures with a slash are of other texts than the test split, and in the report there.
    """
    sizes, bits = (found.get(name, []) for name in ("document_bytes", "document_bits"))
    figures = {name: figure for name, figure in found["figures"].items() if "/" not in name}
    main = next(name for name in ("bpb", "bits_per_target_byte") if name in figures)
    text = found.get("text") or {
        "split": "test",
        "source": "the run's text",
        "documents": len(sizes),
        "bytes": sum(sizes),
        "sizes": _digest(sizes),
        "trained_on_bytes": None,
    }
    return {
        "checkpoint": {"step": found["config"]["train"]["steps"]},
        "text": text,
        "figures": figures,
        "items": {main: {"sums": bits, "counts": sizes}} if sizes else {},
    }


def _parts(found: dict[str, Any], run: FoundRun, step: int) -> list[Measured]:
    """The figures of a report, apart by the text and the settings that they depend on."""
    settings = found.get("settings", found)
    scoring = _scoring(settings, run)
    chosen = {each["name"]: _changed(each) for each in settings.get("suite", ())}
    everything = tuple(words for each in chosen.values() for words in each)
    parts: dict[tuple[Any, ...], Measured] = {}
    for name, saved in found["figures"].items():
        figure = Figure.from_json({"name": name, **_known(saved)})
        evaluation = saved.get("evaluation") if isinstance(saved, dict) else None
        about = found.get("own_text", {}).get(evaluation) or found["text"]
        options = everything if evaluation is None else chosen.get(evaluation, ())
        part = Measured(run, step, _text(about, found), (*scoring, *options), _trained_on(about))
        part = parts.setdefault(part.place, part)
        part.figures[name] = figure
        if items := found.get("items", {}).get(name):
            part.items[name] = Items(*(np.array(items[key], float) for key in ("sums", "counts")))
        for chart in found.get("charts", {}).get(evaluation, ()):
            part.charts[chart["title"]] = Chart.from_json(chart)
    return list(parts.values())


def _trained_on(about: Mapping[str, Any] | None) -> str:
    if about is None:
        return ""
    trained = about["trained_on_bytes"]
    if trained is None:
        return "unknown"
    whole = f"{trained:,} of {about['bytes']:,} bytes" if trained else ""
    return "; ".join(filter(None, (whole, shared_windows(about))))


def _known(saved: Any) -> dict[str, Any]:
    """The fields of a saved figure; earlier versions saved its number alone."""
    if not isinstance(saved, dict):
        return {"value": saved}
    fields = ("name", "value", "unit", "low", "high", "bound")
    return {name: saved[name] for name in fields if name in saved}


def _scoring(settings: Mapping[str, Any], run: FoundRun) -> tuple[str, ...]:
    """Context and stride, where they are no defaults."""
    context, stride = settings.get("context"), settings.get("stride")
    words = []
    if context is not None and context != run.symbols:
        words.append(f"context {context}")
    if context is not None and stride is not None and stride != default_stride(context):
        words.append(f"stride {stride}")
    return tuple(words)


def _changed(saved: Mapping[str, Any]) -> tuple[str, ...]:
    """The options of an evaluation that change its figures and differ from their defaults."""
    name = saved["name"]
    kind = Evaluation.variants.get(name)
    defaults: dict[str, Any] = {} if kind is None else dict(_flat(_json(kind())))
    ignored = () if kind is None else kind.choosing
    return tuple(
        f"{name}.{option} {_words(value)}"
        for option, value in saved.items()
        if option not in ("name", "defined_in", *ignored) and value != defaults.get(option)
    )


def _json(evaluation: Evaluation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(vars(evaluation)))
    return found


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _text(about: Mapping[str, Any] | None, found: Mapping[str, Any]) -> ScoredText:
    """The text of a report; without a fingerprint it is known by its size and where it was read."""
    if about is None:
        return ScoredText("", "no text")
    counts = [number_of(about[name], name[:-1]) for name in ("documents", "bytes")]
    words = f"{about['split']} of {about['source']}: {', '.join(counts)}"
    identity = about.get("fingerprint") or about.get("sizes")
    if identity is None:
        data = found.get("data")
        settings = json.dumps([about["split"], about["source"], counts, data], sort_keys=True)
        identity, words = _digest(settings), f"{words} (an older report, without a fingerprint)"
    return ScoredText(identity, words)


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()
