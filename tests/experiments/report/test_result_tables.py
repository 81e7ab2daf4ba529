import pytest

from bytelm.core.figure import Figure
from bytelm.core.statistics import STATISTICS, Statistic, recorded
from bytelm.experiments.records import Heading, RunRecord
from bytelm.experiments.report.result_tables import result_columns
from bytelm.experiments.report.summary import gather


@pytest.fixture
def own():
    yield Statistic("bytes_per_word", "share")
    del STATISTICS["bytes_per_word"]


def test_a_statistic_that_nobody_knows_has_a_column(own):
    figures = {"bytes_per_word": recorded("bytes_per_word", 0.5), "plain": Figure("plain", 1.0)}
    entries = gather([RunRecord("one", "books", 1e14, 0, "done", figures=figures)])
    heading = Heading("title", "steps", "one", "command", "machine")
    columns = result_columns(heading, entries)
    assert columns["bytes/word"](entries[0]) == "50.00%"
    assert "plain" not in columns
