"""Results of several runs: found, told apart by text and settings, compared and written."""

import csv
import io
import json

import numpy as np
import pytest

from bytelm.cli.main import main
from bytelm.core.chart import Chart, Point
from bytelm.core.config_json import to_dict
from bytelm.core.errors import UserError
from bytelm.core.figure import Figure
from bytelm.evaluation.bits import Bits
from bytelm.evaluation.report import DocumentBits, Report, Result, write_report
from bytelm.evaluation.robustness import Robustness
from bytelm.experiments.results.collect import collect
from bytelm.experiments.results.rows import curves, results, sections_of
from bytelm.experiments.results.write import text_of
from bytelm.models.mamba import MambaConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig, to_json

BITS = (Bits(),)
SIZES = np.arange(1, 13) * 100
TEXT = {"split": "test", "source": "books", "documents": 12, "bytes": int(SIZES.sum())}
TEXT |= {"fingerprint": "aa", "trained_on_documents": 0, "trained_on_bytes": 0}


def make_run(folder, model, rate=1.0, **report):
    """A run directory with metrics and a report; bits are `rate` for each byte."""
    folder.mkdir(parents=True)
    config = ExperimentConfig(model=model, train=TrainConfig(seed=report.pop("seed", 0)))
    (folder / "config.json").write_text(to_json(config))
    lines = [
        {"step": step, "bytes": step, "flops": 10.0 * step, "validation_bpb": 8 / step}
        for step in (1, 2, 4)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(
        make_report(folder.name, rate, config, **report), None, folder / "eval_step_4.json"
    )


def make_report(name, rate, config, suite=BITS, text=TEXT, bound=False, **changes):
    chart = Chart.of("Bits by position", "byte", "bpb", {"all": [Point(1, rate), Point(2, rate)]})
    result = Result(
        (Figure("bpb", rate, "bpb", rate - 0.1, rate + 0.1, bound), Figure("noise/1/bpb", 9.0)),
        documents=DocumentBits(rate * SIZES, SIZES),
        charts=(chart,),
    )
    length = config.data.sequence_length
    fields = {"context": length, "stride": length // 2, "max_bytes": None} | changes
    report = Report(
        run=name, step=4, digest="ff", suite=list(map(to_dict, suite)),
        results={"bits": result}, text=text, machine="m", **fields,
    )  # fmt: skip
    return report.to_json()


@pytest.fixture
def folder(tmp_path):
    make_run(tmp_path / "runs/flat", TransformerConfig(width=192), 2.0)
    make_run(tmp_path / "runs/wide", TransformerConfig(width=128), 1.5, bound=True)
    make_run(tmp_path / "runs/deep/mamba", MambaConfig(width=64), 1.75, seed=1)
    return tmp_path / "runs"


def test_one_table_of_runs_at_any_depth_with_what_differs(folder):
    runs, rows = collect([folder, folder / "deep" / ".." / "flat"])  # flat, in two spellings
    assert [run.label for run in runs] == ["mamba", "flat", "wide"]
    found = results(runs, rows, baseline="flat")
    # Mamba's options are no differences from those of another family.
    assert found.options == ("model.family", "model.width", "train.seed")
    section, training = sections_of(found)
    assert section.title == "test of books: 12 documents, 7,800 bytes"
    (table,) = section.tables
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["run"], row["model.width"], row["bpb"]) for row in rows] == [
        ("mamba", "64", "1.7500"),
        ("flat", "192", "2.0000"),
        ("wide", "128", "≤ 1.5000"),
    ]
    less = [row["bpb, less flat"] for row in rows]
    assert less == ["-0.2500 (-0.2500 to -0.2500)", "", "≤ -0.5000 (-0.5000 to -0.5000)"]
    assert "noise/1/bpb" not in table.columns and "trained on of the text" not in table.columns
    # One chart with a line for each run.
    (chart,) = section.charts
    assert [series.label for series in chart.series] == ["mamba", "flat", "wide"]
    assert training.tables[0].rows[0][-1] == "2.0000"
    (curve,) = curves(runs)
    assert curve.series[0].paths[0][-1] == Point(40.0, 2.0)


def test_other_texts_and_settings_are_not_compared(folder, tmp_path):
    config = ExperimentConfig(model=TransformerConfig(width=192))
    others = {
        "copy": {"text": {**TEXT, "source": "renamed", "trained_on_bytes": 780}},  # the same text
        "other": {"text": {**TEXT, "fingerprint": "bb"}},
        "unknown": {"text": {**TEXT, "fingerprint": "cc", "trained_on_bytes": None}},
        "short": {"context": 32, "stride": 16},
        "noisy": {"suite": (Bits(), Robustness(seed=3))},
        "plain": {"suite": (Bits(compressors=False),)},
    }
    for name, changes in others.items():
        report = make_report("flat", 3.0, config, **changes)
        write_report(report, None, tmp_path / f"{name}.json")
    runs, rows = collect([folder, *(tmp_path / f"{name}.json" for name in others)])
    assert len(runs) == 3
    found = results(runs, rows, baseline="wide")
    assert [len(group) for group in found.groups] == [3, 1, 1, 1]
    first, *rest = sections_of(found)[:-1]
    assert "are in other tables, and are not compared" in " ".join(first.sentences)
    # The later report of the same text and settings counts; bits do not depend on noise.
    assert first.tables[0].rows[1][first.tables[0].columns.index("bpb")] == "3.0000"
    assert all("wide was not evaluated on this text" in " ".join(s.sentences) for s in rest)
    titles = [section.title for section in rest]
    assert any(title.endswith("context 32") for title in titles)
    unknown = next(s for s in rest if "cc" in s.sentences[0])
    assert "unknown" in unknown.tables[0].rows[0]


def test_what_was_trained_on_is_in_the_table(tmp_path):
    text = {**TEXT, "trained_on_bytes": 780, "trained_on_documents": 1}
    make_run(tmp_path / "run", TransformerConfig(), text=text)
    found = results(*collect([tmp_path]))
    assert "780 of 7,800 bytes" in text_of(found, "markdown")
    assert "780 of 7,800 bytes" in text_of(found, "csv")


def test_reports_of_older_versions_are_read(tmp_path):
    make_run(tmp_path / "run", TransformerConfig())
    (tmp_path / "run/eval_step_4.json").unlink()
    text = {key: TEXT[key] for key in TEXT if key != "fingerprint"}
    old = {"step": 3, "suite": [{"name": "bits", "compressors": True}], "text": text}
    old |= {"figures": {"bpb": {"name": "bpb", "value": 2.5, "unit": "bpb"}}, "details": {}}
    (tmp_path / "run/eval_step_3.json").write_text(
        json.dumps(old | {"context": 512, "stride": 256})
    )
    test = {"figures": {"bpb": 2.25, "perturbed/none/0/bpb": 9.0}, "max_bytes": None}
    test |= {"document_bits": [225.0], "document_bytes": [100]}
    saved = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/test_report.json").write_text(json.dumps(test | {"config": saved}))
    _, rows = collect([tmp_path / "run"])
    assert [(row.step, row.figures["bpb"].value) for row in rows] == [(3, 2.5), (1000, 2.25)]
    assert "without a fingerprint" in rows[0].text.words and rows[0].trained_on == ""
    assert rows[1].trained_on == "unknown" and list(rows[1].figures) == ["bpb"]


def test_runs_that_differ_in_the_seed_have_means(tmp_path):
    for seed, (wide, narrow) in enumerate([(1.5, 2.0), (1.7, 2.1)]):
        make_run(tmp_path / f"wide-s{seed}", TransformerConfig(width=192), wide, seed=seed)
        make_run(tmp_path / f"narrow-s{seed}", TransformerConfig(width=128), narrow, seed=seed)
    make_run(tmp_path / "mamba", MambaConfig(width=64), 1.75)
    found = results(*collect([tmp_path]), baseline="narrow-s0")
    each, means = sections_of(found)[0].tables
    assert len(each.rows) == 5 and means.caption == "Means over seeds"
    rows = [dict(zip(means.columns, row, strict=True)) for row in means.rows]
    less = "bpb, less narrow-s0 and its seeds"
    assert [(r["runs"], r["bpb"], r["bpb over seeds"], r[less]) for r in rows] == [
        ("mamba", "1.7500", "", "-0.2500 (-0.2500 to -0.2500)"),
        ("narrow-s0, narrow-s1", "2.0500", "2.0000 to 2.1000", ""),
        (
            "wide-s0, wide-s1",
            "1.6000",
            "1.5000 to 1.7000",
            "-0.4500 (-0.4500 to -0.4500); seeds -0.5000 to -0.4000",
        ),
    ]
    assert "train.seed" in each.columns and "train.seed" not in means.columns
    assert rows[1]["model.width"] == "128"
    assert "Means over seeds" in text_of(found, "html")


def test_columns_are_chosen(folder):
    runs, rows = collect([folder])
    found = results(runs, rows, columns=["model.width", "noise/*"])
    columns = sections_of(found)[0].tables[0].columns
    assert columns[:4] == ("run", "model.width", "step", "noise/1/bpb")
    only = results(runs, rows, columns=["model.depth"])
    assert only.options == ("model.depth",) and "bpb" in sections_of(only)[0].tables[0].columns


def test_bars_of_several_runs_stand_at_the_same_labels(folder):
    shares = {"flat": {"1": 0.5, "2-3": 0.5}, "mamba": {"2-3": 1.0}}
    for row in (rows := collect([folder])[1]):
        row.charts.clear()
        if row.run.label in shares:
            lengths = Chart.histogram("Lengths", "bytes", "share", {"all": shares[row.run.label]})
            row.charts["Lengths"] = lengths
    (chart,) = sections_of(results([], rows))[0].charts
    assert chart.bars == ("2-3", "1")
    assert {series.label: series.number for series in chart.series} == {"mamba": 0, "flat": 1}
    assert [(p.x, p.y) for p in chart.series[1].paths[0]] == [(1, 0.5), (0, 0.5)]


def test_all_formats(folder, tmp_path):
    found = results(*collect([folder]), baseline="flat")
    lines = list(csv.DictReader(io.StringIO(text_of(found, "csv"))))
    assert [line["run"] for line in lines] == ["mamba", "flat", "wide"]
    assert float(lines[0]["bpb_less_baseline_low"]) == -0.25 and lines[0]["noise/1/bpb"] == "9.0"
    latex = text_of(found, "latex")
    assert r"$\le$ 1.5000" in latex and r"95\% interval" in latex and latex.count("toprule") == 2
    page = text_of(found, "html")
    assert page.count("<svg") == 2 and "http" not in page.replace("http://www.w3.org", "")
    assert "| mamba |" in text_of(found, "markdown")


def test_mistakes_are_named(folder, tmp_path):
    runs, rows = collect([folder])
    with pytest.raises(UserError, match=r"no run 'flta' .*did you mean flat"):
        results(runs, rows, baseline="flta")
    with pytest.raises(
        UserError, match=r"did you mean bpb\?\); figures are [^/]* and \d+ with a slash"
    ):
        results(runs, rows, columns=["bpd"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no runs"):
        collect([empty])
    with pytest.raises(UserError, match="does not exist"):
        collect([tmp_path / "missing"])
    (folder / "flat/eval_x.json").write_text("{")
    with pytest.raises(UserError, match=r"eval_x.json is no report"):
        collect([folder])


def test_two_runs_of_one_name_are_told_apart(tmp_path):
    for place in ("a", "b"):
        make_run(tmp_path / place / "run", TransformerConfig())
    runs, _ = collect([tmp_path])
    assert [run.label for run in runs] == ["a/run", "b/run"]


def test_the_command(folder, tmp_path, capsys):
    table, curve = tmp_path / "table.tex", tmp_path / "curves.png"
    arguments = ["results", str(folder), "--output", str(table), "--curves", str(curve)]
    assert main(arguments) == 0
    assert "toprule" in table.read_text() and curve.read_bytes().startswith(b"\x89PNG")
    assert "results of 3 runs" in capsys.readouterr().out
    assert main(arguments) == 2 and "add --overwrite" in capsys.readouterr().err
    assert main(["results"]) == 2 and "name folders" in capsys.readouterr().err
    assert main(["results", str(folder), "--output", str(tmp_path / "x.pdf")]) == 2
    assert "none of the endings .md, .csv, .tex, .html" in capsys.readouterr().err
    assert main(["results", str(folder), "--baseline", "flat"]) == 0
    assert "bpb, less flat" in capsys.readouterr().out
