import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.core.errors import UserError
from bytelm.inference.marginal.marginal import ByteMarginal
from bytelm.inference.sampling import Sampling
from bytelm.inference.scoring import Scorer, score_documents
from bytelm.models.contract import Batch
from bytelm.models.transformer import TransformerConfig
from tests.inference.marginal.brute_force import BruteForce, GreedyTokenizer
from tests.inference.marginal.hashing_model import Hashing, plain_log_p, random_table

A, B, TOP = b"a", b"b", b"\xff"
ALPHABET = (A, B, TOP)
PIECES = (A, B, TOP, b"ab", b"ba", b"a\xffb", b"ab", b"\xff\xff\xff")
"""Overlapping tokens, two of them with the same bytes."""
WITH_EMPTY = (b"", *PIECES, b"")

TABLES = {len(pieces): random_table(len(pieces)) for pieces in (PIECES, WITH_EMPTY)}


def marginal(pieces=PIECES, **options):
    graphdef, params = nnx.split(Hashing(TABLES[len(pieces)]))
    options = {"covers": None, "context": 32, **options}
    return ByteMarginal(graphdef, nnx.to_pure_dict(params), GreedyTokenizer(pieces), **options)


def brute_force(pieces=PIECES, **windows):
    return BruteForce(lambda seen: plain_log_p(TABLES[len(pieces)], seen), pieces, **windows)


def strings(length):
    return [b"".join(parts) for parts in itertools.product(ALPHABET, repeat=length)]


SHORT = [text for length in range(4) for text in strings(length)]
LONGER = [b"ababab", b"a\xffba\xff", b"\xff\xff\xff\xff\xff\xff", b"baabba", b"ab\xff\xff"]


@pytest.fixture(scope="module")
def exact():
    """All short strings, exactly scored."""
    return marginal().score(SHORT)


@pytest.mark.parametrize("pieces", [PIECES, WITH_EMPTY])
def test_scores_are_those_of_all_covers(pieces):
    texts = [*SHORT[::3], *LONGER]
    scores = marginal(pieces).score(texts)
    expected = brute_force(pieces)
    starts = np.array([expected.starts(text) for text in texts])
    ends = np.array([expected.ends(text) for text in texts])
    np.testing.assert_allclose(scores.marginal.byte_nats, -np.log(starts), atol=1e-6)
    np.testing.assert_allclose(scores.marginal.end_nats, -np.log(ends / starts), atol=1e-6)
    ways = [expected.one_way(GreedyTokenizer(pieces).encode(text)) for text in texts]
    np.testing.assert_allclose(scores.canonical.byte_nats, [way[0] for way in ways], atol=1e-6)
    np.testing.assert_allclose(scores.canonical.end_nats, [way[1] for way in ways], atol=1e-6)
    assert scores.marginal.bytes.tolist() == [len(text) for text in texts]
    assert not scores.dropped.any() and not scores.dropped_bits.any()


@pytest.mark.parametrize(("context", "stride"), [(1, None), (2, 1), (3, None), (4, 3), (4, 4)])
def test_long_histories_are_seen_through_windows(context, stride):
    texts = [*LONGER, b"abababab"]
    scores = marginal(context=context, stride=stride).score(texts)
    expected = brute_force(context=context, stride=stride or max(1, context // 2))
    starts = [expected.starts(text) for text in texts]
    ends = [expected.ends(text) for text in texts]
    np.testing.assert_allclose(scores.marginal.byte_nats, -np.log(starts), atol=1e-6)
    total = scores.marginal.byte_nats + scores.marginal.end_nats
    np.testing.assert_allclose(total, -np.log(ends), atol=1e-6)
    canonical = [expected.one_way(GreedyTokenizer(PIECES).encode(text))[0] for text in texts]
    np.testing.assert_allclose(scores.canonical.byte_nats, canonical, atol=1e-6)


def test_all_strings_of_a_length_and_all_that_end_before_sum_to_one(exact):
    lengths = exact.marginal.bytes
    starts = np.exp(-exact.marginal.byte_nats)
    ends = np.exp(-exact.marginal.byte_nats - exact.marginal.end_nats)
    for length in range(4):
        total = starts[lengths == length].sum() + ends[lengths < length].sum()
        assert total == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("pieces", [PIECES, WITH_EMPTY])
@pytest.mark.parametrize("prefix", [b"", b"a", b"ab", b"a\xff", b"\xff\xff", b"ba\xff"])
def test_next_bytes_are_those_of_all_covers(pieces, prefix):
    found = marginal(pieces).next_bytes(prefix)
    assert found.dtype == np.float64 and found.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found, brute_force(pieces).next_bytes(prefix), atol=1e-6)


def test_next_bytes_multiply_to_the_scores():
    model, text = marginal(), b"ab\xffba"
    steps = [model.next_bytes(text[:n])[byte] for n, byte in enumerate(text)]
    scores = model.score([text]).marginal
    assert -np.log(steps).sum() == pytest.approx(scores.byte_nats[0], abs=1e-9)
    assert -math.log(model.next_bytes(text)[256]) == pytest.approx(scores.end_nats[0], abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(ALPHABET), max_size=9).map(b"".join), min_size=1, max_size=2
    ),
    covers=st.sampled_from([1, 2, 3, 8, None]),
    context=st.sampled_from([2, 5, 32]),
)
def test_the_canonical_score_is_never_below_the_marginal(texts, covers, context):
    scores = marginal(covers=covers, context=context).score(texts)
    assert (scores.canonical.byte_nats >= scores.marginal.byte_nats).all()
    both = scores.canonical.byte_nats + scores.canonical.end_nats
    # END is scored as a difference; only its rounding may show.
    assert (both >= scores.marginal.byte_nats + scores.marginal.end_nats - 1e-12).all()


def test_more_covers_come_closer_from_above():
    texts = [b"ababbabaab", b"\xff\xff\xff\xffab\xff"]
    nats = [marginal(covers=covers).score(texts).marginal.byte_nats for covers in (1, 2, 8, None)]
    assert (np.diff(nats, axis=0) <= 1e-12).all() and (nats[0] > nats[-1] + 0.1).all()


def test_one_cover_is_the_canonical_one():
    scores = marginal(covers=1).score(LONGER)
    np.testing.assert_array_equal(scores.marginal.byte_nats, scores.canonical.byte_nats)
    np.testing.assert_allclose(scores.marginal.end_nats, scores.canonical.end_nats, atol=1e-12)
    assert (scores.dropped > 0).all() and (scores.dropped_bits > 0).all()
    # A token more is read for START.
    expected = [1 + len(GreedyTokenizer(PIECES).encode(text)) for text in LONGER]
    assert scores.tokens_read.tolist() == expected


def test_dropped_bits_add_up_the_shares_of_mass_that_were_dropped():
    # After "a": the token "a", and three tokens that go on from it; of all that one history stays.
    scores = marginal(covers=1).score([b"a"])
    p = np.exp(plain_log_p(TABLES[len(PIECES)], [9]))
    longer = p[3] + p[5] + p[6]
    assert scores.dropped.tolist() == [1]
    np.testing.assert_allclose(scores.dropped_bits, -math.log2(p[0] / (p[0] + longer)), rtol=1e-5)


def test_a_prefix_that_cannot_be_is_refused():
    table = TABLES[len(PIECES)].copy()
    table[:, [i for i, token in enumerate(PIECES) if b"b" in token]] = -np.inf
    graphdef, params = nnx.split(Hashing(table))
    model = ByteMarginal(graphdef, params, GreedyTokenizer(PIECES), covers=None, context=8)
    assert model.next_bytes(b"a")[ord("b")] == 0
    with pytest.raises(UserError, match="gives the prompt no probability"):
        model.next_bytes(b"ab")


def test_no_documents():
    scores = marginal().score([])
    assert scores.marginal.byte_nats.shape == scores.dropped.shape == (0,)


def test_continues_a_prompt_that_ends_inside_a_token():
    # Canonical tokenisation of the prompt would say "a", "\xff".
    model, prompt = marginal(), b"a\xff"
    chosen = int(np.argmax(brute_force().next_bytes(prompt)))
    greedy = model.generate([prompt], max_bytes=1, sampling=Sampling(temperature=0.0))
    assert greedy == [bytes([chosen]) if chosen < 256 else b""]


@pytest.mark.parametrize("prompt", [b"", b"a\xff"])
def test_samples_are_as_frequent_as_next_bytes_say(prompt):
    count = 200
    texts = marginal().generate([prompt] * count, max_bytes=1, seed=3)
    counts = np.array([texts.count(text) for text in (*ALPHABET, b"")])
    assert counts.sum() == count
    expected = count * marginal().next_bytes(prompt)[[97, 98, 255, 256]]
    # The chance of more is 1e-3.
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_a_row_depends_on_its_place_and_the_seed_alone():
    model = marginal(covers=4)
    texts = model.generate([b"a", b"", b"ba"], max_bytes=6, seed=5)
    assert model.generate([b"b", b"", b"b"], max_bytes=6, seed=5)[1] == texts[1]
    assert any(
        model.generate([b"a", b"", b"ba"], max_bytes=6, seed=seed) != texts for seed in (6, 7)
    )


def test_a_byte_is_drawn_with_the_key_of_its_row_and_position():
    model, text = marginal(), b""
    made = model.generate([b"a", b""], max_bytes=4, seed=5)[1]
    key = jax.random.fold_in(jax.random.key(5), 1)
    for position in range(len(made)):
        logits = jnp.log(jnp.asarray(model.next_bytes(text), jnp.float32))
        symbol = jax.random.categorical(jax.random.fold_in(key, position), logits)
        text += bytes([int(symbol)])
    assert len(made) > 1 and text == made


def test_generation_stops_where_it_has_to():
    model = marginal(covers=4)
    greedy = {"sampling": Sampling(temperature=0.0)}
    (text,) = model.generate([b"b"], max_bytes=5, **greedy)
    assert len(text) == 5
    assert model.generate([b"b"], max_bytes=0, **greedy) == [b""]
    stop = text[1:3]
    assert model.generate([b"b"], max_bytes=5, stop=[stop], **greedy) == [text[: text.find(stop)]]
    assert b"".join(pieces[0] for pieces in model.stream([b"b"], max_bytes=5, **greedy)) == text
    assert model.generate([], max_bytes=5) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covers": 0}, "covers is 0"),
        ({"context": 0}, "context is 0"),
        ({"context": 4, "stride": 5}, "stride is 5"),
        ({"stride": 0}, "stride is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        marginal(**options)


@pytest.mark.parametrize("kind", ["bpe", "superbpe", "unigram"])
def test_works_with_trained_tokenizers(trained, kind):
    tokenizer = trained[kind]
    graphdef, params = nnx.split(Hashing(random_table(tokenizer.size)))
    model = ByteMarginal(graphdef, nnx.to_pure_dict(params), tokenizer, covers=6, context=8)
    prompt = "of the 日".encode()[:-1]
    scores = model.score([prompt, b"of the text\n\0"])
    assert (scores.marginal.byte_nats < scores.canonical.byte_nats).all()
    assert scores.canonical.symbols[0] == len(tokenizer.encode(prompt))
    assert model.next_bytes(prompt).sum() == pytest.approx(1, abs=1e-12)
    # The prompt ends inside a character, and so inside tokens.
    (text,) = model.generate([prompt], max_bytes=3, stop=[b"\xa5"])
    assert len(text) <= 3


@pytest.fixture(scope="module")
def transformer():
    """A Transformer over PIECES that is sure of something, its parameters, and what it says."""
    config = TransformerConfig(
        width=16, depth=1, head_width=4, key_value_heads=2, vocabulary=len(PIECES)
    )
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(scale=0.5, size=leaf.shape).astype(np.float32)),
        nnx.to_pure_dict(shapes),
    )

    @jax.jit
    def logits(ids):
        batch = Batch(ids=ids, targets=ids, document_ids=(ids != config.symbols.pad).astype(int))
        return nnx.merge(graphdef, params)(batch).logits[0]

    def log_p(seen):
        ids = np.full((1, 8), config.symbols.pad, np.int32)
        ids[0, : len(seen)] = seen
        wide = np.asarray(logits(ids), np.float64)[len(seen) - 1]
        return wide - np.log(np.exp(wide).sum())

    return graphdef, params, log_p


def test_a_transformer_is_read_through_its_cache(transformer):
    context = 4
    graphdef, params, log_p = transformer
    tokenizer = GreedyTokenizer(PIECES)
    model = ByteMarginal(graphdef, params, tokenizer, covers=16, context=context)
    expected = BruteForce(log_p, PIECES, context, context // 2)
    texts = [b"aba", b"a\xffba", b"baabb"]
    scores = model.score(texts)
    assert not scores.dropped.any()
    starts = [expected.starts(text) for text in texts]
    np.testing.assert_allclose(scores.marginal.byte_nats, -np.log(starts), atol=1e-5)
    ends = [expected.ends(text) for text in texts]
    total = scores.marginal.byte_nats + scores.marginal.end_nats
    np.testing.assert_allclose(total, -np.log(ends), atol=1e-5)
    canonical = score_documents(
        Scorer(graphdef, params), texts, sequence_length=context, tokenizer=tokenizer
    )
    for found, scored in zip(
        vars(scores.canonical).values(), vars(canonical).values(), strict=True
    ):
        np.testing.assert_allclose(found, scored, atol=1e-5)
