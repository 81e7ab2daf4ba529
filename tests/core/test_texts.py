import pytest

from bytelm.core.errors import UserError
from bytelm.core.texts import each_text, text_bytes


@pytest.mark.parametrize("text", [b"ab", bytearray(b"ab"), memoryview(b"ab"), "ab"])
def test_one_text_is_one_text_and_never_taken_apart(text):
    assert list(each_text(text)) == [b"ab"]
    assert list(each_text([text, text])) == [b"ab", b"ab"]


@pytest.mark.parametrize("text", [3, None, ["ab"]])
def test_what_is_no_text_is_said(text):
    with pytest.raises(UserError, match="is not a text"):
        text_bytes(text)


def test_half_of_a_character_is_refused_and_an_escaped_byte_is_that_byte():
    assert text_bytes("a\udcff") == b"a\xff"
    with pytest.raises(UserError, match="half of a character"):
        text_bytes("a\ud800")
