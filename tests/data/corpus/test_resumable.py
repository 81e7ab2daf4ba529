"""Files of a killed process are continued, or started over if they are damaged."""

import pytest

from bytelm.data.corpus import resumable
from bytelm.data.corpus.resumable import PROGRESS, ResumableFiles

DOCUMENTS = [b"%d " % number * 50 for number in range(40)]


def write(directory, stop=None):
    """Writes DOCUMENTS; returns the index of the first that this call wrote."""
    with ResumableFiles(directory, ["text", "sizes"], "it") as written:
        first = written.done
        for number, text in enumerate(DOCUMENTS[first:], first):
            written.files["text"].write(text)
            if number == stop:
                raise KeyboardInterrupt
            written.files["sizes"].write(b"%3d" % len(text))
            written.advance()
    assert (directory / "text").read_bytes() == b"".join(DOCUMENTS)
    assert (directory / "sizes").read_bytes() == b"".join(b"%3d" % len(t) for t in DOCUMENTS)
    return first


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A directory of a process that was stopped in document 30."""
    monkeypatch.setattr(resumable, "SAVE_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stop=12)
    monkeypatch.setattr(resumable, "SAVE_SECONDS", 99.0)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stop=30)
    return tmp_path


def test_goes_on_where_it_was_saved(stopped, caplog):
    assert write(stopped) == 12
    assert "continuing it after 12 documents" in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no JSON", "other JSON"])
def test_damage_starts_over(stopped, caplog, damage):
    text = (stopped / "text").read_bytes()
    if damage == "flipped":
        (stopped / "text").write_bytes(b"?" + text[1:])
    elif damage == "cut":
        (stopped / "sizes").write_bytes(b"")
    elif damage == "gone":
        (stopped / "sizes").unlink()
    else:
        (stopped / PROGRESS).write_text("{" if damage == "no JSON" else "[1]")
    assert write(stopped) == 0
    assert "the unfinished part of it is damaged; it starts over" in caplog.text
