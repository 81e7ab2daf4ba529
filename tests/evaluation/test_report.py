import dataclasses
import json

import pytest

from bytelm.data.config import DataConfig, Files, Mixture, SpanCorruption
from bytelm.evaluation.report import report_name, write_report

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


def test_odd_names_stay_short_and_plain():
    found = report_name(7, "[x]/\x1b" + "日" * 200, RUN, RUN)
    assert "/" not in found and "\x1b" not in found and len(found.encode()) < 200


def test_no_report_replaces_another(tmp_path):
    default = tmp_path / "eval.json"
    written = [write_report({"n": n}, None, default).name for n in range(3)]
    assert written == ["eval.json", "eval-2.json", "eval-3.json"]
    assert [json.loads((tmp_path / file).read_text())["n"] for file in written] == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(FileExistsError):
        write_report({}, default, tmp_path / "unused.json")
