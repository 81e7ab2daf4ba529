"""The last error of a run: what is kept of it, and that keeping it harms nothing."""

import jax
import pytest

from bytelm.core.errors import UserError
from bytelm.core.stopping import Stopped
from bytelm.training import last_error
from bytelm.training.last_error import FILE, NotingErrors, read_last_error
from bytelm.training.run_directory import CONFIG


def fail(run, error: BaseException, **options) -> None:
    with pytest.raises(type(error)) as raised, NotingErrors(run, **options) as notes:
        notes.step = lambda: 7
        raise error
    assert raised.value is error


@pytest.fixture
def run(tmp_path):
    (tmp_path / CONFIG).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("two\nlines"), "two lines"),
        (OSError(28, "No space left", "x"), "[Errno 28] No space left: 'x'"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 5 GB\nmore"), "RESOURCE_EXHAUSTED: 5 GB"),
        (KeyError("a"), "KeyError: 'a'"),
        (ZeroDivisionError(), "ZeroDivisionError: "),
    ],
)
def test_an_error_is_one_line(run, error, sentence, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    fail(run, error, during="test")
    found = read_last_error(run)
    assert (found.sentence, found.step, found.during, found.job) == (sentence, 7, "test", "12")


def test_what_leaves_no_error(tmp_path, run, monkeypatch):
    fail(run, Stopped(15))  # by a signal, which is no error
    fail(run, UserError("another's run"), owns=False)
    (tmp_path / "empty").mkdir()
    fail(tmp_path / "empty", UserError("not begun"))  # or the folder could not be removed again
    assert not list(tmp_path.rglob(FILE))
    with NotingErrors(run):
        pass
    assert read_last_error(run) is None


def test_an_error_that_cannot_be_written_hides_no_error(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(last_error, "write_whole", full)
    fail(run, UserError("the first"))


def test_a_damaged_file_is_no_error(run):
    for content in (b"", b"[]", b'{"sentence": "a"}', b'{"unknown": 1}'):
        (run / FILE).write_bytes(content)
        assert read_last_error(run) is None
