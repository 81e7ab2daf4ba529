import io

from rich.console import Console

from bytelm.evaluation.progress import counted, shown_progress
from bytelm.inference.scoring import score_documents
from tests.inference.test_scoring import AWKWARD, Spy


def show(**options) -> str:
    out = io.StringIO()
    with shown_progress("scoring", 3000, Console(file=out, width=100, **options)) as done:
        assert list(counted([bytes(1000), bytes(500)], done)) == [bytes(1000), bytes(500)]
    return out.getvalue()


def test_a_terminal_shows_bytes_and_nothing_else_does():
    shown = show(force_terminal=True)
    assert "scoring" in shown and "1.5/3.0 kB" in shown
    assert show() == ""


def test_all_bytes_are_told_as_they_are_scored():
    told = []
    documents = [*AWKWARD, bytes(range(100))]
    score_documents(Spy(), documents, sequence_length=8, batch_size=2, done=told.append)
    assert sum(told) == sum(map(len, documents)) and len(told) > 10
