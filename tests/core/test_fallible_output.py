import io
import os
import sys

import pytest

from bytelm.core import fallible_output


class Failing(io.StringIO):
    """A stream as of a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.mark.filterwarnings("default")
def test_output_that_cannot_be_written_is_one_warning(monkeypatch, recwarn):
    monkeypatch.setattr(sys, "stdout", Failing())
    with fallible_output.may_fail():
        print("one")
        with fallible_output.may_fail():
            print("two")
        print("three", flush=True)
    assert [str(w.message) for w in recwarn] == [
        "output cannot be written (No space left on device); the run goes on, and what it would "
        "print is lost"
    ]
    with pytest.raises(OSError, match="No space"):
        print("a command that does nothing but print has failed")


def test_what_a_closed_pipe_left_in_the_buffer_harms_nobody(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.warns(UserWarning, match="Broken pipe"), fallible_output.may_fail():
            print("text", flush=True)
        print("more")  # and closing flushes it


def test_working_output_stays_itself(capsys):
    with fallible_output.may_fail():
        print("text")
    assert capsys.readouterr().out == "text\n"
