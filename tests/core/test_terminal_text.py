import io
import sys
from pathlib import Path

from bytelm.cli.main import main
from bytelm.core.terminal_text import escape_unwritable, printable, printable_name


def test_control_characters_are_made_visible():
    text = "".join(map(chr, range(0xA0)))
    assert printable(text).replace("\n", "").replace("\t", "").isprintable()
    assert printable("a\n\tb\x1b[31m\x9b") == "a\n\tb␛[31m\ufffd"
    assert printable_name(Path("a\nb\x1b")) == "a␊b␛"


def test_bytes_of_names_that_are_no_utf8_are_shown():
    name = b"caf\xe9.txt".decode(errors="surrogateescape")
    assert printable_name(name) == printable(name) == r"caf\xe9.txt"


def ascii_stream(errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)


def written(stream: io.TextIOWrapper, text: str) -> bytes:
    stream.write(text)
    stream.flush()
    return stream.buffer.getvalue()


def test_what_an_encoding_lacks_is_escaped():
    stream, chosen = ascii_stream(), ascii_stream("replace")
    escape_unwritable(stream, chosen, io.StringIO())
    assert written(stream, "naïve 日 \udcff") == rb"na\xefve \u65e5 \udcff"
    assert written(chosen, "naïve") == b"na?ve"


def test_commands_write_to_standard_output_that_is_ascii(monkeypatch):
    out, error = ascii_stream(), ascii_stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", error)
    assert main(["train", "naïve-\x1b[31m-日.py"]) == 2
    assert b"na\\xefve-\\u241b[31m-\\u65e5" in written(error, "")
