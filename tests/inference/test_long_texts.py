"""The size of states of long texts."""

import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.inference.decoding import MOST, state_length
from bytelm.inference.generation import Generator
from bytelm.inference.sampling import Sampling
from bytelm.models.transformer import TransformerConfig
from bytelm.patching.budget import Budget
from tests.models.compiled import split_model
from tests.models.families import FAMILIES

LONG = 100_000


@pytest.mark.parametrize(
    ("name", "grows"),
    [
        ("transformer", True),
        ("transformer, window, grouped and qk-norm", False),
        ("mamba", False),
        ("mamba, MLPs and attention, scanned and rematerialised", False),
        ("spacebyte", True),
        ("blt", True),
        ("aunet of four widths, published block, n-grams", False),
    ],
)
def test_states_grow_only_where_something_is_seen_for_ever(name, grows):
    generator = Generator(*split_model(FAMILIES[name]))
    assert generator.remembers_all(1024) == grows
    sizes = [generator.state_size(length, None) for length in (1024, LONG)]
    assert (sizes[0] < sizes[1]) == grows


def test_numbers_of_symbols_fit_int32():
    assert state_length(2**31 + 5) == MOST
    slots = Budget.of(lambda symbols: symbols // 2, MOST).at(jnp.array([0, 600, MOST - 1]))
    np.testing.assert_array_equal(slots, [256, 512, 2**30])


def test_a_window_writes_a_very_long_text():
    config = TransformerConfig(width=8, depth=1, head_width=8, window=4)
    generator = Generator(*split_model(config), chunk=10_000)
    short, long = (
        generator.generate([b"x"], max_bytes=size, sampling=Sampling(temperature=0.0))[0]
        for size in (500, LONG)
    )
    assert long[:500] == short[:500] and (len(long) == LONG or len(long) == len(short))
