"""The report of a comparison, as Markdown, CSV, JSON and HTML."""

import csv
import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from bytelm.experiments.records import Heading, RunRecord, SweepRow, run_figures
from bytelm.experiments.report import write as module
from bytelm.experiments.report.write import show_results, write_report

HEADING = Heading(
    title="Bytes <against> subwords",
    axis="train_flops",
    baseline="flat",
    command="bytelm compare 'x < y'",
    machine="2 cores & more",
    notes=("Widths were chosen alike.",),
    sweep=(SweepRow("flat", 0.003, 2.5, True), SweepRow("flat", 0.01, None, False)),
)
BYTES = (100.0, 300.0, 50.0) * 4
FIGURES = {
    "bpb": 2.1,
    "bpb_low": 2.0512,
    "bpb_high": 2.1534,
    "bpb_with_end": 2.1234,
    "train_flops": 1.25e14,
    "train_raw_bytes": 7654321.0,
    "train_bytes_per_second": 43210.4,
    "inference_flops_per_byte": 876543.0,
    "inference_flops_per_byte_capacity": 987654.0,
    "parameters": 1234567,
    "parameters_without_embeddings": 1198765,
    "peak_memory_bytes": 345 * 2**20,
    "bytes_per_patch": 5.25,
    "bytes_per_token": 3.75,
    "context_bytes": 1536.0,
}
CELLS = {
    "test bpb": "2.1000",
    "95% interval": "2.0512 to 2.1534",
    "bpb with end": "2.1234",
    "training FLOPs": "1.25e14",
    "training bytes": "7,654,321",
    "training bytes/s": "43,210",
    "inference FLOPs/byte": "876,543",
    "at capacity": "987,654",
    "parameters": "1,234,567",
    "without embeddings": "1,198,765",
    "peak memory, MiB": "345",
    "bytes/patch": "5.25",
    "bytes/token": "3.75",
    "context, bytes": "1,536",
}


@pytest.fixture(autouse=True)
def drawn(monkeypatch) -> dict:
    """The charts by file name in place of the files, which take long to draw."""
    files = {}
    monkeypatch.setattr(module, "write_png", lambda charts, path: files.update({path.name: charts}))
    return files


def run(contender="flat", seed=0, figures=FIGURES, *, bpb=2.1, **fields) -> RunRecord:
    known = {
        "corpus": "books",
        "budget": 1e14,
        "state": "done",
        "learning_rate": 0.003,
        "steps": 1200,
        "document_bits": tuple(bpb * size for size in BYTES),
        "document_bytes": BYTES,
        "curve": ((1e12, 1e5, 6.0), (1e14, 1e7, bpb)),
    }
    upper_bound = fields.get("upper_bound", False)
    figures = run_figures(figures, upper_bound=upper_bound)
    return RunRecord(contender, seed=seed, figures=figures, **{**known, **fields})


def failed(contender="<b>broken</b>", **fields) -> RunRecord:
    return RunRecord(contender, "books", 1e14, 0, "failed", reason="no | memory\n&c", **fields)


def report(records, output, heading=HEADING):
    """The tables of report.md by caption, each with its rows by first cell."""
    write_report(heading, records, output)
    tables = {}
    for caption, lines in re.findall(
        r"^\*\*(.+)\*\*\n\n((?:\|.*\n)+)", (output / "report.md").read_text(), re.MULTILINE
    ):
        header, _, *rows = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in lines.splitlines()
        )
        tables[caption] = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    return tables


def only(tables, start):
    (table,) = (table for caption, table in tables.items() if caption.startswith(start))
    return table


def test_what_was_trained_on_of_the_test_text_is_said(tmp_path):
    text = {"bytes": 600, "documents": 3, "trained_on_bytes": 0, "trained_on_documents": 0}
    copied = {**text, "trained_on_bytes": 200, "trained_on_documents": 1}
    report([run(text=text), run("copied", text=copied)], tmp_path)
    words = (tmp_path / "report.md").read_text()
    assert "The test text of copied: 200 of its 600 bytes were trained on" in words
    assert "The test text of flat" not in words


def test_the_figures_are_those_of_the_run(tmp_path):
    row = only(report([run()], tmp_path), "Figures")["flat"]
    expected = {"contender": "flat", "learning rate": "0.003", "steps": "1,200"}
    assert row == {**expected, **CELLS}


@pytest.mark.parametrize(("name", "value"), FIGURES.items())
def test_another_figure_changes_the_table_and_the_page(tmp_path, name, value):
    before = only(report([run()], tmp_path), "Figures")["flat"]
    page = (tmp_path / "report.html").read_text()
    after = only(report([run(figures={**FIGURES, name: value * 2})], tmp_path), "Figures")["flat"]
    assert len([column for column in before if before[column] != after[column]]) == 1
    assert (tmp_path / "report.html").read_text() != page


def test_a_figure_that_is_absent_is_blank(tmp_path):
    without = {k: v for k, v in FIGURES.items() if not k.startswith("bytes_per")}
    table = only(report([run(), run("other", figures=without)], tmp_path), "Figures")
    assert (table["other"]["bytes/patch"], table["other"]["bytes/token"]) == ("", "")
    assert table["flat"]["bytes/patch"] == "5.25"
    zero = {**without, "bytes_per_patch": 0.0}
    table = only(report([run("other", figures=zero)], tmp_path), "Figures")
    assert table["other"]["bytes/patch"] == "0.00" and "bytes/token" not in table["other"]


def test_several_seeds_are_averaged_with_their_spread(tmp_path):
    runs = [run(seed=seed, figures={**FIGURES, "bpb": bpb}) for seed, bpb in ((0, 2.1), (1, 2.3))]
    row = only(report([*runs, failed("flat")], tmp_path), "Figures")["flat"]
    assert (row["test bpb"], row["over seeds"]) == ("2.2000", "2.1000 to 2.3000")
    assert row["runs done"] == "2 of 3"


def test_differences_from_the_baseline(tmp_path):
    subword = run("bpe", bpb=1.9, upper_bound=True)
    noisy = run("same", document_bits=(200.0, 640.0, 104.0) * 4)
    table = only(report([run(), subword, noisy], tmp_path), "Differences from flat")
    assert table["bpe"] == {
        "contender": "bpe",
        "difference in bpb": "≤ -0.2000",
        "95% interval": "-0.2000 to -0.2000",
        "interval excludes 0": "yes, lower",
        "seeds": "1",
        "documents": "12",
    }
    assert table["same"]["interval excludes 0"] == "no" and "flat" not in table


def test_a_missing_difference_is_reported(tmp_path):
    others = run("other", document_bytes=(1.0, 2.0, 3.0))
    assert not any(caption.startswith("Diff") for caption in report([run(), others], tmp_path))
    assert "common test documents: other." in (tmp_path / "report.md").read_text()
    report([run("other"), failed("flat")], tmp_path)
    assert "common test documents: other." in (tmp_path / "report.md").read_text()


def test_upper_bounds_are_marked_and_explained(tmp_path):
    figures = {**FIGURES, "perturbed/swap/0.1/bpb": 3.0, "perturbed/swap/0.1/accuracy": 0.25}
    tables = report([run("bpe", figures=figures, upper_bound=True), run()], tmp_path)
    assert only(tables, "Figures")["bpe"]["test bpb"] == "≤ 2.1000"
    assert only(tables, "Figures")["flat"]["test bpb"] == "2.1000"
    assert only(tables, "Bits per byte of perturbed")["swap/0.1"]["bpe"] == "≤ 3.0000"
    assert only(tables, "Next bytes")["swap/0.1"]["bpe"] == "25.00%"
    assert "≤ marks an upper bound" in (tmp_path / "report.md").read_text()
    assert "along the canonical tokens" in (tmp_path / "report.md").read_text()
    report([run(figures=figures)], tmp_path)
    assert "along the canonical tokens" not in (tmp_path / "report.md").read_text()
    assert "≤" not in (tmp_path / "report.md").read_text()


def test_robustness_languages_and_adaptation(tmp_path):
    figures = {
        **FIGURES,
        "perturbed/swap/0.2/bpb": 3.25,
        "perturbed/swap/0.05/bpb": 2.5,
        "language/de/bits_per_sentence": 321.5,
        "language/de/premium": 1.125,
        "language/de/patches_per_sentence": 40.25,
        "adapted/de/bpb": 2.75,
        "adapted/de/forgetting": 0.125,
        "adapted/de/hours": 3.0,
    }
    tables = report([run(figures=figures), run("bare"), failed()], tmp_path)
    robust = only(tables, "Bits per byte of perturbed text")
    assert list(robust) == ["swap/0.05", "swap/0.2"]
    assert robust["swap/0.2"]["flat"] == "3.2500" and robust["swap/0.2"]["bare"] == ""
    assert only(tables, "Bits per sentence of parallel")["de"]["flat"] == "321.5"
    assert only(tables, "Bits per sentence relative to eng")["de"]["flat"] == "1.125"
    russian = report(
        [run(figures=figures)], tmp_path, dataclasses.replace(HEADING, reference="rus")
    )
    assert only(russian, "Bits per sentence relative to rus")["de"]["flat"] == "1.125"
    assert only(tables, "Patches per sentence")["de"]["flat"] == "40.2"
    assert only(tables, "Bits per byte after")["de"]["flat"] == "2.7500"
    assert only(tables, "Bits per byte lost")["de"]["flat"] == "+0.1250"
    assert not [caption for caption in tables if "hours" in caption]  # it is in the CSV alone
    plain = report([run()], tmp_path)
    assert len(plain) == 2  # the figures and the learning rates


def test_speeds_in_turns_come_before_those_of_the_runs(tmp_path):
    tables = report([run()], tmp_path)
    assert only(tables, "Figures")["flat"]["training bytes/s"] == "43,210"
    timed = {**FIGURES, "train_bytes_per_second_in_turns": 54321.0}
    tables = report([run(figures=timed)], tmp_path)
    assert only(tables, "Figures")["flat"]["training bytes/s"] == "54,321"


def test_runs_that_are_not_done_are_listed_with_their_reason(tmp_path):
    records = [run(), failed(), RunRecord("late", "books", 1e14, 0, "waiting")]
    tables = report(records, tmp_path)
    missing = only(tables, "2 of 3 runs")
    assert missing["&lt;b&gt;broken&lt;/b&gt;"]["state"] == r"failed: no \| memory &amp;c"
    assert missing["late"]["state"] == "waiting"
    assert "1 of 3 runs done, 1 failed, 1 waiting" in (tmp_path / "report.md").read_text()
    assert only(tables, "Figures")["late"]["test bpb"] == ""


def test_the_learning_rates(tmp_path):
    tables = report([run()], tmp_path)
    write_report(HEADING, [run()], tmp_path)
    assert only(tables, "Those tried")
    lines = (tmp_path / "report.md").read_text()
    assert "A better rate may lie beyond those tried, of: flat (smaller)." in lines
    assert "| flat | 0.003 | 2.5000 | chosen |" in lines and "| flat | 0.01 |  |  |" in lines


def test_the_csv_has_all_figures_exactly(tmp_path):
    odd = {**FIGURES, "bpb": 0.1 + 0.2, "something/else": 1e-30}
    records = [run(figures=odd), failed(upper_bound=True)]
    write_report(HEADING, records, tmp_path)
    with (tmp_path / "runs.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert {name: float(first[name]) for name in odd} == odd
    assert (first["contender"], float(first["budget"]), first["steps"]) == ("flat", 1e14, "1200")
    assert (second["contender"], second["state"]) == ("<b>broken</b>", "failed")
    assert second["reason"] == "no | memory\n&c" and second["upper_bound"] == "True"
    assert {second[name] for name in (*odd, "learning_rate", "steps")} == {""}


class Page(HTMLParser):
    """Fails for a tag that is not closed; keeps what there is."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


RECORDS = {
    "several": [run(), run(seed=1), run("bpe", bpb=1.9, upper_bound=True), failed()],
    "budgets": [run(), run(budget=4e14), run(corpus="<i>docs</i>", budget=4e14)],
    "one document": [run(n, document_bits=(9.0,), document_bytes=(4.0,)) for n in ("a", "flat")],
    "none done": [failed(), RunRecord("late", "books", 1e14, 0, "waiting")],
    "stopped": [run(state="stopped", figures={}, document_bits=(), document_bytes=())],
    "bare": [run(figures={}, document_bits=(), document_bytes=(), curve=())],
    "no runs": [],
}


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("axis", ["train_flops", "raw_bytes", "inference_flops"])
def test_the_page_is_sound_and_complete_in_itself(tmp_path, drawn, records, axis):
    write_report(dataclasses.replace(HEADING, axis=axis), records, tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    outside = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|src=|url\([^#]|@import|<script|<link", outside)
    assert not re.search(r"<(b|i|against)>", text)
    targets = {attributes["id"] for attributes in page.all("section")}
    assert {attributes["href"].removeprefix("#") for attributes in page.all("a")} == targets
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes["aria-label"] for attributes in page.all("svg"))
    assert "Bytes <against> subwords" in page.words and "2 cores & more" in page.words
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md",
        "report.html",
        "report.json",
        "runs.csv",
    }
    assert list(drawn) == ["pareto_train.png", "pareto_inference.png", "curves.png"]
    shown = re.findall(r"!\[.*\]\((.+)\)", (tmp_path / "report.md").read_text())
    assert shown == [name for name, charts in drawn.items() if charts]
    assert len(page.all("svg")) == sum(len(charts) for charts in drawn.values())


def test_all_files_are_written_again_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.undo()
    write_report(HEADING, RECORDS["none done"], tmp_path)
    write_report(HEADING, RECORDS["several"], tmp_path)
    texts = {"report.md", "report.html", "report.json", "runs.csv"}
    images = {"pareto_train.png", "pareto_inference.png", "curves.png"}
    assert {path.name for path in tmp_path.iterdir()} == texts | images
    assert "No run is done yet" not in (tmp_path / "report.md").read_text()


def test_the_page_has_the_same_tables_and_charts(tmp_path):
    tables = report(RECORDS["several"], tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    words = set(page.words)
    for table in tables.values():
        for row in table.values():
            assert {cell for cell in row.values() if cell and "&" not in cell} <= words
    assert {"<b>broken</b>", "failed: no | memory &c"} <= words
    assert len(page.all("svg")) == 3
    assert "flat: 2.1000 (2.0512 to 2.1534) at 1.25e14 training FLOPs" in words


def test_a_single_document_has_no_interval_of_a_difference(tmp_path):
    table = only(report(RECORDS["one document"], tmp_path), "Differences")
    assert table["a"]["difference in bpb"] == "+0.0000"
    assert "95% interval" not in table["a"] and "interval excludes 0" not in table["a"]


def test_names_are_whole_in_a_narrow_terminal():
    names = [f"{family}-whitespace" for family in ("dynamic_pooling", "dynamic_pooling_wide")]
    out = io.StringIO()
    records = [run(name) for name in names]
    show_results(HEADING, records, Console(file=out, width=50, color_system=None))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("\u2502")]
    shown = "".join(line.split("\u2502")[1].strip() for line in lines)
    assert shown == "".join(names)
