"""Drafts change no text, in families of all kinds."""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats

from bytelm.core.vocabulary import BYTE_VOCABULARY, END, INPUT_SIZE, OUTPUT_SIZE, START
from bytelm.inference.decoding import (
    _count_new,
    empty_state,
    first_symbols,
    read_chunk,
    row_keys,
    write_chunk,
)
from bytelm.inference.drafters import Drafter, Drafts, Heads, Lookup, Small, Stale
from bytelm.inference.generation import Draft
from bytelm.inference.sampling import Sampling
from bytelm.models.parameters import abstract_model
from tests.inference.test_generation import GREEDY, PROMPTS, Bigram, hashing, make_generator
from tests.models import compiled, golden_mtp
from tests.models.compiled import LENGTH, ROWS, decoder, random_rows
from tests.models.families import FAMILIES
from tests.models.golden import cases, load

ONE_OF_EACH = {config.family: name for name, config in reversed(FAMILIES.items())}  # the first
SAMPLING = Sampling(temperature=0.7)
DRAFTS = 3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scripted(Drafter):
    """Drafts from known texts; its state counts the symbols that it has read of them.

    Where `stale` says so, it drafts as `Stale`, by the same program.
    """

    texts: jax.Array  # int32 [B, T], where the first is the first pending symbol
    stale: jax.Array | None = None

    def read(self, state, ids, lengths):
        return state + lengths

    def draft(self, context, state, count):
        places = state[:, None] + 1 + jnp.arange(count)[None, :]
        ids, of_model = jnp.take_along_axis(self.texts, places, axis=1, mode="clip"), context.state
        if self.stale is not None:
            by_model = Stale().draft(context, None, count)
            ids, of_model = jnp.where(self.stale, by_model.ids, ids), by_model.state
        return Drafts(ids, jnp.full_like(state, count), of_model, state)


@dataclass(frozen=True)
class Start:
    """Rows of a family before they write, and what they write without drafts."""

    graphdef: nnx.GraphDef
    params: Any
    logits: jax.Array
    state: Any
    keys: jax.Array
    lengths: np.ndarray  # int32 [B], symbols of the prompts
    room: np.ndarray  # int32 [B], symbols that a row may write after the first
    texts: np.ndarray  # int32 [B, T]

    def write(self, drafter, drafting, drafts=DRAFTS):
        """(rows, what was written) in one chunk, with up to so many drafts a round."""
        state = jax.tree.map(jnp.copy, self.state)
        rows = first_symbols(self.logits, state, self.keys, SAMPLING, BYTE_VOCABULARY, drafting)
        return write_chunk(
            self.graphdef,
            self.params,
            rows,
            self.room,
            SAMPLING,
            LENGTH,
            BYTE_VOCABULARY,
            drafter,
            drafts,
        )

    def check(self, written):
        """Each row is as it is without drafts, or has that beginning if other rows were faster."""
        assert (written.counts[written.counts < self.room] > 0).all()
        for row, text in enumerate(self.texts):
            count = int(written.counts[row])
            wanted = text[1 : 1 + count]
            np.testing.assert_array_equal(written.symbols[row, :count], wanted)
            assert count == self.room[row] or END in wanted or count > LENGTH - DRAFTS


@functools.cache
def start_of(name):
    config = FAMILIES[name]
    params, extend = decoder(config)
    graphdef, _ = compiled.for_decoding(config)
    lengths = (np.arange(ROWS) % 4 + 1).astype(np.int32)
    logits, state = extend(params, random_rows(31).ids, compiled.empty_state(config), lengths)
    logits = logits[np.arange(ROWS), lengths - 1]
    keys = row_keys(jax.random.key(7), jnp.arange(ROWS))
    room = (LENGTH - lengths).astype(np.int32)

    rows = first_symbols(logits, jax.tree.map(jnp.copy, state), keys, SAMPLING, BYTE_VOCABULARY)
    texts, ones = [rows.pending], np.ones(ROWS, np.int32)
    now = state
    for made in range(1, room.max() + 1):
        new, now = extend(params, texts[-1][:, None], now, ones * (made <= room))
        texts.append(choose(new, keys, ones * made))
    return Start(graphdef, params, logits, state, keys, lengths, room, np.stack(texts, axis=1))


@jax.jit
def choose(logits, keys, numbers):
    """Draws symbols by the rule of `bytelm.inference.decoding`, written once more."""
    keys = jax.vmap(jax.random.fold_in)(keys, numbers)
    gumbel = jax.vmap(lambda key: jax.random.gumbel(key, (OUTPUT_SIZE,)))(keys)
    return jnp.argmax(logits[:, 0] / SAMPLING.temperature + gumbel, axis=-1).astype(jnp.int32)


DECODERS_WITH_PATCHES = [
    name for name in ONE_OF_EACH.values() if hasattr(FAMILIES[name], "segmenter")
]


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_accepting_some_drafts_is_plain_decoding(name):
    start = start_of(name)
    wrong = np.random.default_rng(3).random(start.texts.shape) < 0.3
    texts = np.where(wrong, (start.texts + 1) % 256, start.texts)
    stale = jnp.array(False) if name in DECODERS_WITH_PATCHES else None
    drafter = Scripted(jnp.asarray(texts, jnp.int32), stale)
    _, written = start.write(drafter, jnp.zeros(ROWS, jnp.int32))
    start.check(written)
    assert (written.accepted > 0).all() and written.rounds < LENGTH


WITH_HEADS = [name for name in FAMILIES if "draft" in name]


@pytest.mark.parametrize("name", WITH_HEADS)
def test_heads_draft_and_change_no_text(name):
    start = start_of(name)
    graphdef, params = start.graphdef, start.params
    state, _ = empty_state(graphdef, params, ROWS, LENGTH, Heads())
    ids, logits = random_rows(31).ids, jnp.copy(start.logits)
    _, state, _ = read_chunk(graphdef, params, ids, start.lengths, logits, state, None, None)
    _, written = dataclasses.replace(start, state=state).write(Heads(), None, drafts=2)
    start.check(written)


@pytest.mark.parametrize("name", DECODERS_WITH_PATCHES)
def test_a_stale_backbone_drafts_and_changes_no_text(name):
    start = start_of(name)
    drafter = Scripted(jnp.asarray(start.texts, jnp.int32), jnp.array(True))
    _, written = start.write(drafter, jnp.zeros(ROWS, jnp.int32))
    start.check(written)
    assert written.accepted[1:].sum() > 0


def bigram(seed, noise=0.0):
    """Three bytes and END follow any symbol, with probabilities that depend on it."""
    logits = np.full((INPUT_SIZE, OUTPUT_SIZE), -np.inf, np.float32)
    rng = np.random.default_rng(seed)
    logits[:, [*b"abc", END]] = 1.5 * rng.normal(size=(INPUT_SIZE, 4))
    logits += noise * np.random.default_rng(1).normal(size=logits.shape)
    return Bigram(jnp.asarray(logits))


def small(model):
    return Small(*nnx.split(model))


DRAFTERS = {
    "lookup": Lookup(shortest=1, longest=3),
    "small": small(bigram(0, noise=1.0)),
    "itself": Stale(),
}


@pytest.fixture(scope="module")
def sampled():
    """4000 texts of up to 4 bytes by each drafter, and by none."""
    generator = make_generator(bigram(0), chunk=4)
    options = {"max_bytes": 4, "seed": 3, "rows": 4000}  # in one batch
    plain = generator.generate([b"aba"] * 4000, **options)
    drafts = {name: Draft(drafter, 3, adapts=False) for name, drafter in DRAFTERS.items()}
    made = {
        name: generator.generate([b"aba"] * 4000, draft=draft, **options)
        for name, draft in drafts.items()
    }
    return plain, made


@pytest.mark.parametrize("name", DRAFTERS)
def test_drafts_do_not_change_the_distribution(name, sampled):
    plain, made = sampled[0], sampled[1][name]
    assert made == plain
    table = special.log_softmax(np.asarray(bigram(0).table[...], np.float64), axis=1)

    def probability(text):
        symbols = [ord("a"), *text] + [END] * (len(text) < 4)
        return np.exp(sum(table[pair] for pair in itertools.pairwise(symbols)))

    texts = [bytes(text) for size in range(5) for text in itertools.product(b"abc", repeat=size)]
    expected = len(made) * np.array([probability(text) for text in texts])
    observed = np.array([made.count(text) for text in texts])
    assert observed.sum() == len(made) and np.isclose(expected.sum(), len(made))
    rare = expected < 5  # one class together
    observed, expected = (
        np.append(counts[~rare], counts[rare].sum()) for counts in (observed, expected)
    )
    assert stats.chisquare(observed, expected).pvalue > 0.001


@pytest.fixture(scope="module")
def generators():
    """One model, and draftings that accept much, little, and what was there before."""
    model = hashing()
    other = hashing()
    other.table[...] = other.table[...] + 0.5 * jax.random.normal(jax.random.key(5), (997, 257))
    draftings = [
        Draft(small(model), 4, adapts=False),
        Draft(small(other), 4, adapts=False),
        Draft(Lookup(shortest=1), 4, adapts=False),
        Draft(small(other), 8),
    ]
    return make_generator(model), draftings


@pytest.mark.parametrize("index", range(4))
def test_options_mean_the_same_with_drafts(generators, index):
    generator, draft = generators[0], generators[1][index]

    def same(**options):
        wanted = generator.generate(PROMPTS, **options)
        assert generator.generate(PROMPTS, draft=draft, **options) == wanted
        return wanted

    whole = same(max_bytes=30, seed=5)
    same(max_bytes=30, sampling=GREEDY)
    same(max_bytes=11, seed=5)
    same(max_bytes=1)
    assert same(max_bytes=30, seed=5, stop=[whole[0][7:9]])[0] == whole[0][:7]
    one = generator.generate(PROMPTS[:1], max_bytes=30, seed=5, draft=draft)
    assert one == whole[:1]


def test_what_was_measured_is_of_one_drafter():
    generator, *others = (make_generator(hashing()) for _ in range(3))
    one, other = (each.as_drafter for each in others)
    drafters = one, others[0].as_drafter, other, Lookup(), Lookup()
    found = [generator._length(Draft(drafter, 8), 2) for drafter in drafters]
    assert found[0] is found[1] and found[3] is found[4]
    assert len(generator.draft_lengths) == 3


def test_an_accepted_end_ends_a_row():
    follows = np.arange(INPUT_SIZE)
    follows[START], follows[ord("a")], follows[ord("b")] = ord("a"), ord("b"), END
    table = jnp.asarray(follows[:, None] == np.arange(OUTPUT_SIZE)[None, :], jnp.float32)
    generator = make_generator(Bigram(table), chunk=5)
    draft = Draft(small(Bigram(table)), 4, adapts=False)
    prompts = [b"a", b"b", b"x", b""]
    made = generator.generate(prompts, max_bytes=12, sampling=GREEDY, draft=draft)
    assert made == [b"b", b"", b"x" * 12, b"ab"]


def test_lookup_repeats_what_followed_the_longest_match():
    lookup = Lookup(shortest=2, longest=4)
    texts = [b"one two; one three; one t", b"abcabcab", b"no repetition", b""]
    ids = np.zeros((4, 40), np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: 1 + len(text)] = START, *text
    read = jnp.array([len(text) for text in texts])
    state = lookup.read(lookup.init_state(4, 40), jnp.asarray(ids), read)
    pending = ids[np.arange(4), read]

    @dataclass
    class Given:
        state: Any
        pending: Any

    found = lookup.draft(Given(None, jnp.asarray(pending)), state, 5)
    np.testing.assert_array_equal(found.counts, [5, 5, 0, 0])
    # Of equally long matches the last counts; a match up to the end goes on in a circle.
    assert [bytes(row) for row in np.asarray(found.ids[:2], np.uint8)] == [b"hree;", b"cabca"]


@pytest.mark.parametrize(
    "path", cases("evabyte", lambda names: "in.chain7.r0.node_logits" in names)
)
def test_golden_chains_are_accepted_as_published(path):
    case = load(path)
    for number in range(case.cfg["n_rows"]):
        row = f"chain7.r{number}"
        ids = case.input[f"{row}.head_logits"].argmax(axis=-1)[None]
        chosen = case.input[f"{row}.node_logits"].argmax(axis=-1)[None]
        new = _count_new(jnp.asarray(ids), jnp.asarray(chosen), jnp.array([8]), BYTE_VOCABULARY)
        assert new[0] - 1 == case.out[f"{row}.accept_length"]
        np.testing.assert_array_equal(ids[0, : new[0]], case.out[f"{row}.new_tokens"])


@pytest.mark.parametrize("path", cases("mtp", lambda names: "cfg.max_new_tokens" in names))
def test_golden_heads_draft_in_the_loop_as_published(path):
    """All prompts in one batch: the bytes, the rounds, and how many drafts these accept."""
    case = load(path)
    config, numbers = golden_mtp.model_config(case), range(case.cfg["n_prompts"])
    graphdef, params = abstract_model(config)[0], golden_mtp.parameters(case, config)
    prompts = [case.input[f"p{number}.prompt"] for number in numbers]
    accepted = [case.out[f"p{number}.accepted"] for number in numbers]
    room = np.array([sum(each) for each in accepted], np.int32)
    lengths = np.array([len(prompt) for prompt in prompts])
    ids = np.stack([np.pad(prompt, (0, max(lengths) - len(prompt))) for prompt in prompts])

    rows, drafts, symbols = len(prompts), config.draft.heads - 1, config.symbols
    state, _ = empty_state(graphdef, params, rows, int(max(lengths + room) + 1), Heads())
    logits = jnp.zeros((rows, symbols.outputs))
    logits, state, _ = read_chunk(graphdef, params, ids, lengths, logits, state, None, None)
    keys = row_keys(jax.random.key(0), jnp.arange(rows))
    start = first_symbols(logits, state, keys, GREEDY, symbols)
    tokens = [[first] for first in np.array(start.pending)]  # before its memory is used again
    _, written = write_chunk(
        graphdef, params, start, room, GREEDY, int(sum(room)), symbols, Heads(), drafts
    )
    for number, made in zip(numbers, tokens, strict=True):
        made += written.symbols[number, : room[number]].tolist()
        np.testing.assert_array_equal(made[:-1], case.out[f"p{number}.tokens"])
    assert written.rounds == max(map(len, accepted))
    found = np.bincount(np.concatenate(accepted) - 1, minlength=1 + drafts)
    np.testing.assert_array_equal(written.accepted, found)
    assert found[1:4].all()
