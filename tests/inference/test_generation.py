import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, INPUT_SIZE, OUTPUT_SIZE, START
from bytelm.inference import decoding
from bytelm.inference.generation import Generator, store_weights
from bytelm.inference.sampling import Sampling
from bytelm.models.contract import Batch, LanguageModel
from bytelm.models.transformer import TransformerConfig
from tests.models.compiled import split_model
from tests.models.families import FAMILIES

PROMPTS = [b"a prompt", b"", bytes(range(200, 240))]
GREEDY = Sampling(temperature=0.0)


class Hashing(LanguageModel):
    """Logits from a table, at a hash of all the symbols so far and their positions.

    Quick to compile, and exact: one symbol read wrongly changes everything after it.
    """

    def __init__(self, table):
        self.table = nnx.Param(table)

    def init_state(self, batch_size, max_length):
        return {
            "length": jnp.zeros(batch_size, jnp.int32),
            "hash": jnp.zeros(batch_size, jnp.int32),
        }

    def extend(self, ids, state, lengths):
        offsets = jnp.arange(ids.shape[1])[None, :]
        positions = state["length"][:, None] + offsets
        terms = jnp.where(offsets < lengths[:, None], (ids + 1) * (positions + 1), 0)
        hashes = (state["hash"][:, None] + jnp.cumsum(terms, axis=1)) % len(self.table[...])
        state = {"length": state["length"] + lengths, "hash": hashes[:, -1]}
        return jnp.take(self.table[...].astype(jnp.float32), hashes, axis=0), state

    def for_decoding(self):
        return self


class Bigram(Hashing):
    """Logits from a table, at the last symbol."""

    def extend(self, ids, state, lengths):
        return jnp.take(self.table[...], ids, axis=0), state


def hashing():
    return Hashing(jax.random.normal(jax.random.key(0), (997, OUTPUT_SIZE)))


def make_generator(model, **sizes):
    graphdef, params = nnx.split(model)
    return Generator(graphdef, nnx.to_pure_dict(params), **{"prefill": 16, "chunk": 8, **sizes})


@pytest.fixture(scope="module")
def generator():
    return make_generator(hashing())


def greedy_by_recomputation(model, prompt, count):
    @jax.jit
    def logits(ids, document_ids):
        return model(Batch(ids=ids, targets=ids, document_ids=document_ids)).logits

    symbols = [START, *prompt]
    for _ in range(count):
        ids = np.zeros((1, 64), np.int32)
        ids[0, : len(symbols)] = symbols
        document_ids = (np.arange(64) < len(symbols)).astype(np.int32)[None]
        symbols.append(int(jnp.argmax(logits(ids, document_ids)[0, len(symbols) - 1])))
        if symbols[-1] == END:
            return bytes(symbols[1 + len(prompt) : -1])
    return bytes(symbols[1 + len(prompt) :])


@pytest.mark.parametrize("window", [None, 6])
def test_greedy_is_the_argmax_of_full_forward_passes(window):
    config = TransformerConfig(width=16, depth=1, head_width=8, tied_head=True, window=window)
    model = config.build(nnx.Rngs(3))
    expected = [greedy_by_recomputation(model, prompt, 20) for prompt in PROMPTS]
    assert len(set(expected)) > 1
    made = make_generator(model).generate(PROMPTS, max_bytes=20, sampling=GREEDY)
    assert made == expected


def test_text_depends_on_seed_row_and_position_alone(generator):
    whole = generator.generate(PROMPTS, max_bytes=30, seed=5)
    assert generator.generate(PROMPTS, max_bytes=30, seed=5) == whole
    assert generator.generate(PROMPTS, max_bytes=30, seed=6) != whole
    assert generator.generate(PROMPTS[:2], max_bytes=30, seed=5) == whole[:2]
    assert generator.generate(PROMPTS, max_bytes=11, seed=5) == [text[:11] for text in whole]
    twice = generator.generate([b"same", b"same"], max_bytes=30, seed=5)
    assert twice[0] != twice[1]
    other = make_generator(hashing(), prefill=5, chunk=13)
    assert other.generate(PROMPTS, max_bytes=30, seed=5) == whole


@pytest.mark.parametrize("name", ["mamba", "hnet, two stages, Mamba-2, overflow", "aunet"])
def test_prompts_of_different_lengths_give_together_what_each_gives_alone(name):
    found = next(config for known, config in FAMILIES.items() if known.startswith(name))
    generator = Generator(*split_model(found), prefill=16, chunk=8)
    together = generator.generate(PROMPTS, max_bytes=12, sampling=GREEDY)
    # Copies of a prompt, so that nothing is compiled for one row.
    alone = (generator.generate([prompt] * 3, max_bytes=12, sampling=GREEDY) for prompt in PROMPTS)
    assert [[text] * 3 for text in together] == list(alone)
    assert len(set(together)) == len(PROMPTS)


def test_streaming_gives_the_same_bytes_chunk_by_chunk(generator):
    pieces = list(generator.stream(PROMPTS, max_bytes=30, seed=5))
    assert len(pieces) > 2
    joined = [b"".join(row) for row in zip(*pieces, strict=True)]
    assert joined == generator.generate(PROMPTS, max_bytes=30, seed=5)


def test_end_ends_a_row_and_only_that_row():
    follows = np.arange(INPUT_SIZE)
    follows[START], follows[ord("a")], follows[ord("b")] = ord("a"), ord("b"), END
    table = jnp.asarray(follows[:, None] == np.arange(OUTPUT_SIZE)[None, :], jnp.float32)
    generator = make_generator(Bigram(table), chunk=5)
    made = generator.generate([b"a", b"b", b"x", b""], max_bytes=12, sampling=GREEDY)
    assert made == [b"b", b"", b"x" * 12, b"ab"]


def test_stop_strings_cut_the_text_and_no_other_row(generator):
    whole = generator.generate(PROMPTS, max_bytes=30, seed=5)
    for first in (0, 6, 7, 20):
        stop = whole[0][first : first + 3]
        cut = generator.generate(PROMPTS, max_bytes=30, seed=5, stop=[stop, b"never to be seen"])
        assert cut[0] == whole[0][: whole[0].index(stop)]
        assert cut[1:] == [text[: text.index(stop)] if stop in text else text for text in whole[1:]]


def test_no_prompt_length_compiles_anything_again(generator):
    generator.generate([b"short"], max_bytes=9)
    sizes = [f._cache_size() for f in (decoding.read_chunk, decoding.write_chunk)]
    generator.generate([bytes(70)], max_bytes=20, seed=3)
    generator.generate([b"x"], max_bytes=1, sampling=Sampling(temperature=0.7))
    assert [f._cache_size() for f in (decoding.read_chunk, decoding.write_chunk)] == sizes


def test_bfloat16_weights_are_stored_and_used():
    graphdef, params = nnx.split(hashing())
    stored = store_weights({**nnx.to_pure_dict(params), "count": jnp.int32(3)}, "bfloat16")
    assert stored.pop("count").dtype == jnp.int32
    assert stored["table"].dtype == jnp.bfloat16
    rounded = store_weights(stored, "float32")
    texts = [
        Generator(graphdef, weights, prefill=16, chunk=8).generate(PROMPTS, max_bytes=9)
        for weights in (stored, rounded)
    ]
    assert texts[0] == texts[1]


def test_nothing_to_do(generator):
    assert generator.generate([], max_bytes=5) == []
    assert generator.generate([b"x"], max_bytes=0) == [b""]


@pytest.mark.parametrize(
    "options", [{"max_bytes": -1}, {"stop": [b""]}, {"sampling": Sampling(top_p=2.0)}]
)
def test_bad_options_are_refused_before_anything_runs(generator, options):
    with pytest.raises(UserError):
        generator.stream([b"x"], **{"max_bytes": 5, **options})


@pytest.mark.parametrize(
    ("name", "overflows"),
    [
        ("hat2, whitespace, overflow, scanned and rematerialised", True),
        ("spacebyte, published block, fixed patches, overflow", True),
        ("megabyte", False),
    ],
)
def test_a_row_without_room_for_patches_is_told(name, overflows):
    generator = Generator(*split_model(FAMILIES[name]), prefill=16, chunk=8)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        generator.generate([b"a b " * 120, b"a"], max_bytes=9, sampling=GREEDY)
    # Not what the interpreter may say meanwhile of objects of earlier tests.
    messages = [str(warning.message) for warning in told if warning.category is UserWarning]
    assert len(messages) == overflows
    assert all("in 1 of 2 texts" in message for message in messages)


def test_a_row_overflows_with_others_and_more_bytes_as_it_does_alone():
    config = FAMILIES["hat2, whitespace, overflow, scanned and rematerialised"]
    prompts = [b"a b " * 120, b"a", b"c d " * 200]
    alone = Generator(*split_model(config), prefill=16, chunk=8)
    other = Generator(*split_model(config), prefill=128, chunk=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (text,) = alone.generate(prompts[:1], max_bytes=60, sampling=GREEDY)
        first, *_ = other.generate(prompts, max_bytes=300, sampling=GREEDY)
    assert first[:60] == text
