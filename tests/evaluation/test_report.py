import dataclasses
import json

import numpy as np
import pytest

from bytelm.core.chart import Chart, Point
from bytelm.core.figure import Figure
from bytelm.data.config import DataConfig, Files, Mixture, SpanCorruption
from bytelm.evaluation.report import (
    DocumentBits,
    Items,
    Report,
    Result,
    print_report,
    report_name,
    report_page,
    write_report,
)

RUN = DataConfig(source=Files(files=("books/a.txt",)), sequence_length=64)


def name(data=RUN, **options) -> str:
    return report_name(7, "validation", data, RUN, **options)


def test_all_settings_that_change_figures_are_in_the_name():
    assert name() == name(stride=None) == "eval_step_7_validation.json"
    assert name(stride=3, max_bytes=100) == "eval_step_7_validation_stride-3_max-bytes-100.json"
    long = name(**{"languages.files": ("a" * 30, "b" * 30)})
    assert len(long) < 80 and long != name(**{"languages.files": ("a" * 30, "c" * 30)})
    assert "context-32" in name(dataclasses.replace(RUN, sequence_length=32))
    changes = [
        {"source": Files(files=("other/a.txt",))},
        {"source": dataclasses.replace(RUN.source, validation_files=("b.txt",))},
        {"source": dataclasses.replace(RUN.source, held_out=0.25)},
        {"source": Mixture((RUN.source, RUN.source))},
        {"source": Mixture((RUN.source, Files(files=("b.txt",))))},
        {"task": SpanCorruption()},
        {"sequence_length": 16},
    ]
    names = {name(dataclasses.replace(RUN, **change)) for change in changes}
    assert len(names | {name()}) == len(changes) + 1


def test_what_changes_no_figure_is_not(tmp_path, monkeypatch):
    same = dataclasses.replace(RUN, batch_size=3, workers=2, cache_dir="elsewhere")
    assert name(same) == name()
    monkeypatch.chdir(tmp_path)
    absolute = dataclasses.replace(
        RUN, source=dataclasses.replace(RUN.source, files=(str(tmp_path / "books/a.txt"),))
    )
    assert name(absolute) == name()


def test_many_options_stay_short_and_differ():
    options = {f"robustness.option{number}": "value" * 5 for number in range(9)}
    found = name(**options)
    assert len(found) < 100 and found.startswith("eval_step_7_validation_options-")
    assert found != name(**{**options, "robustness.option0": "other"})


def test_odd_names_stay_short_and_plain():
    found = report_name(7, "[x]/\x1b" + "日" * 200, RUN, RUN)
    assert "/" not in found and "\x1b" not in found and len(found.encode()) < 200


REPORT = Report(
    run="<run>",
    step=7,
    digest="00ff",
    suite=[{"name": "bits", "compressors": True}, {"name": "tasks", "files": ["<b>"]}],
    results={
        "bits": Result(
            (Figure("bpb", 2.0, "bpb", 1.9, 2.1),),
            documents=DocumentBits(np.array([1.5, 2.5]), np.array([1, 1])),
            charts=(Chart.of("Loss <by> position", "byte", "bpb", {"a": [Point(0, 1, (0.5, 2))]}),),
        ),
        "tasks": Result(
            (Figure("tasks/a/exact_match", 0.5, "share"),),
            items={"tasks/a/exact_match": Items(np.array([1.0, 0.0]), np.ones(2))},
            text={"source": "a.jsonl", "documents": 2, "bytes": 9, "trained_on_bytes": 4}
            | {"trained_on_documents": 1, "fingerprint": "ff"},
        ),
    },
    text=None,
    context=64,
    stride=32,
    max_bytes=None,
    machine="a machine",
)


def test_a_report_holds_all_that_a_comparison_needs(tmp_path):
    path = write_report(REPORT.to_json(), tmp_path / "report.json", tmp_path)
    text = path.read_text()
    assert '"sums": [ 1.5, 2.5 ]' in text  # a line for each list of numbers
    found = json.loads(text)
    assert found["items"]["bpb"] == {"sums": [1.5, 2.5], "counts": [1, 1]}
    assert found["items"]["tasks/a/exact_match"]["sums"] == [1, 0]
    assert found["figures"]["bpb"]["evaluation"] == "bits"
    assert found["settings"]["suite"][1]["files"] == ["<b>"]
    assert any(
        note.startswith("a.jsonl: 4 of its 9 bytes were trained on") for note in found["notes"]
    )
    (chart,) = found["charts"]["bits"]
    assert Chart.from_json(chart) == REPORT.results["bits"].charts[0]


def test_the_page_of_a_report():
    page = report_page(REPORT, "bytelm eval --checkpoint '<run>'")
    assert "<run>" not in page and "<b>" not in page and "&lt;run&gt;" in page
    assert page.count("<svg") == 1 and "Loss &lt;by&gt; position" in page
    assert "http" not in page.replace("http://www.w3.org", "") and "1.9000 to 2.1000" in page
    assert "4 of its 9 bytes were trained on" in page and "00ff" in page


def test_long_names_of_figures_are_shown_whole(capsys):
    name = "tasks/" + "contains_char/" * 6 + "accuracy_unconditional"
    result = Result((Figure(name, 0.5, "share"),))
    print_report(dataclasses.replace(REPORT, results={"tasks": result}))
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line.split("│")[1].strip() for line in lines if "│" in line).startswith(name)


def test_no_report_replaces_another(tmp_path):
    default = tmp_path / "eval.json"
    written = [write_report({"n": n}, None, default).name for n in range(3)]
    assert written == ["eval.json", "eval-2.json", "eval-3.json"]
    assert [json.loads((tmp_path / file).read_text())["n"] for file in written] == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(FileExistsError):
        write_report({}, default, tmp_path / "unused.json")
