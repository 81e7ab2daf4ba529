from hypothesis import given
from hypothesis import strategies as st

from bytelm.tokenizers.sorted_tokens import SortedTokens

TEXTS = st.text("ab\xff", max_size=4).map(lambda text: text.encode("latin-1"))
VOCABULARIES = st.lists(TEXTS, max_size=12)


def texts_of(tokens, token_bytes, span):
    return [token_bytes[index] for index in tokens.ids[span]]


@given(VOCABULARIES)
def test_holds_every_id_that_has_bytes_in_the_order_of_their_bytes(token_bytes):
    tokens = SortedTokens(token_bytes)
    assert sorted(tokens.ids) == [i for i, text in enumerate(token_bytes) if text]
    texts = texts_of(tokens, token_bytes, tokens.everything)
    assert texts == sorted(text for text in token_bytes if text)


@given(VOCABULARIES, TEXTS.filter(len))
def test_spans_hold_the_tokens_that_start_with_a_text(token_bytes, text):
    tokens = SortedTokens(token_bytes)
    within = tokens.everything
    # Byte by byte, as a text grows.
    for length in range(1, len(text) + 1):
        equal, longer = tokens.starting_with(text[:length], within)
        within = longer
    assert len(texts_of(tokens, token_bytes, equal)) == token_bytes.count(text)
    expected = [token for token in token_bytes if token.startswith(text) and token != text]
    assert texts_of(tokens, token_bytes, longer) == sorted(expected)
    assert bytes(tokens.bytes_at(len(text), longer)) == bytes(
        token[len(text)] for token in sorted(expected)
    )
