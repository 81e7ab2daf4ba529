"""Continuous batching against each prompt alone."""

import dataclasses

import jax
import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import OUTPUT_SIZE
from bytelm.inference import batching, decoding, generation
from bytelm.inference.batching import Prompt
from bytelm.inference.drafters import Lookup
from bytelm.inference.generation import Draft, Generator
from bytelm.inference.sampling import Sampling
from tests.inference.test_generation import Hashing, make_generator
from tests.models.compiled import split_model
from tests.models.families import FAMILIES

ROWS = 4


def make_prompts(count, longest=60, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Prompt(rng.bytes(int(rng.integers(0, longest))), int(rng.integers(0, 40)), number)
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def generator():
    # END is likely enough that some texts end early.
    table = jax.random.normal(jax.random.key(0), (997, OUTPUT_SIZE))
    return make_generator(Hashing(table.at[:, -1].add(2.0)))


def alone(generator, prompt, **options):
    """The text of a prompt in a batch of its own, in the row of its number."""
    given = Sampling(), 5, options.get("stop", ()), None, [prompt.number]
    pieces = generator._stream([prompt.text], prompt.max_bytes, *given)
    return b"".join(piece for (piece,) in pieces)


@pytest.fixture(scope="module")
def expected(generator):
    return [alone(generator, prompt) for prompt in make_prompts(60)]


@pytest.mark.parametrize("rows", [1, ROWS, 100])
def test_each_prompt_gets_its_text_in_order(generator, expected, rows):
    texts = list(generator.complete(make_prompts(60), rows=rows, seed=5))
    assert texts == expected
    lengths = {len(text) for text in texts}
    assert len(lengths) > 20 and 0 in lengths


def test_parts_prefixes_and_classes_of_length_change_no_text(generator, expected, monkeypatch):
    monkeypatch.setattr(batching, "PART", 5)
    monkeypatch.setattr(decoding, "SHORTEST", 8)
    assert list(generator.complete(make_prompts(60), rows=ROWS, seed=5)) == expected
    prefix, read = b"a prefix of many, " * 5, []
    some = [
        dataclasses.replace(prompt, text=prefix * (prompt.number % 3 > 0) + prompt.text)
        for prompt in make_prompts(40)
    ]
    monkeypatch.setattr(
        Generator,
        "read",
        lambda self, texts, *states, own=Generator.read: (
            read.extend(map(len, texts)) or own(self, texts, *states)
        ),
    )
    texts = list(generator.complete(some, rows=ROWS, seed=5))
    assert sum(read) < sum(1 + len(prompt.text) for prompt in some) - 15 * len(prefix)
    monkeypatch.undo()
    assert texts == [alone(generator, prompt) for prompt in some]


def test_stop_strings_end_rows(generator, expected):
    longest = max(expected, key=len)
    stop = [longest[7:9]]
    texts = list(generator.complete(make_prompts(60), rows=ROWS, seed=5, stop=stop))
    assert texts == [text[: text.index(stop[0])] if stop[0] in text else text for text in expected]


def test_generate_writes_many_prompts_as_few(generator):
    prompts = [prompt.text for prompt in make_prompts(30)]
    whole = generator.generate(prompts, max_bytes=20, rows=30, seed=5)
    assert generator.generate(prompts, max_bytes=20, rows=ROWS, seed=5) == whole


def test_rows_that_make_room_compile_nothing(generator):
    list(generator.complete(make_prompts(9), rows=ROWS))
    functions = decoding.read_chunk, decoding.write_chunk, batching._put_rows, batching._take_states
    sizes = [function._cache_size() for function in functions]
    list(generator.complete(make_prompts(50, seed=1), rows=ROWS, seed=2))
    assert [function._cache_size() for function in functions] == sizes


def test_prompts_are_taken_and_texts_given_as_they_come(generator):
    taken = []

    def prompts():
        for prompt in make_prompts(1000, longest=9):
            taken.append(prompt)
            yield prompt

    texts = generator.complete(prompts(), rows=ROWS)
    next(texts)
    assert len(taken) == batching.PART * ROWS
    texts.close()


def test_a_family_of_levels_writes_the_same_text_in_any_row():
    generator = Generator(*split_model(FAMILIES["nested, overflow"]), prefill=16, chunk=8)
    greedy, prefix = Sampling(temperature=0.0), b"the same start of a text "
    prompts = [Prompt(prefix * (i % 2) + bytes([97 + i]) * (i + 1), 5 + i, i) for i in range(10)]
    texts = list(generator.complete(prompts, rows=ROWS, sampling=greedy))
    for prompt, text in zip(prompts, texts, strict=True):
        options = {"max_bytes": prompt.max_bytes, "sampling": greedy}
        assert generator.generate([prompt.text], **options) == [text]


def test_fewer_rows_where_memory_is_short(generator, expected, monkeypatch):
    size = generator.state_size(256, None)
    monkeypatch.setattr(batching, "free_memory", lambda: 4 * size)
    monkeypatch.setattr(generation, "free_memory", lambda: 4 * size)
    assert list(generator.complete(make_prompts(60), rows=ROWS, seed=5)) == expected
    monkeypatch.setattr(generation, "free_memory", lambda: size // 2)
    with pytest.raises(UserError, match="there is no memory for 2 texts of 256 symbols"):
        list(generator.complete(make_prompts(3), rows=ROWS))


def test_drafts_change_no_text(generator, expected):
    draft = Draft(Lookup(), most=3, adapts=False)
    assert list(generator.complete(make_prompts(60), rows=ROWS, seed=5, draft=draft)) == expected


def test_bad_rows_are_refused(generator):
    with pytest.raises(UserError, match="rows"):
        generator.complete([], rows=0)
    assert list(generator.complete([])) == []
