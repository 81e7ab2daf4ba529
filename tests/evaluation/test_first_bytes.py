import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.core.errors import UserError
from bytelm.evaluation.first_bytes import FirstBytes


@given(st.lists(st.binary(max_size=9)), st.integers(1, 60))
def test_exactly_so_many_bytes_and_whole_documents_but_the_last(documents, max_bytes):
    first = FirstBytes(documents, max_bytes)
    found = list(first)
    assert b"".join(found) == b"".join(documents)[:max_bytes]
    assert found[:-1] == documents[: len(found)][:-1]
    assert first.cut == (found != documents[: len(found)])
    assert list(first) == found  # again


def test_no_limit_and_a_senseless_one():
    first = FirstBytes(iter([b"a", b"", b"bc"]), None)
    assert list(first) == [b"a", b"", b"bc"] and not first.cut
    with pytest.raises(UserError, match="max-bytes is -1"):
        FirstBytes([], -1)
