"""What a level inside a level has of its own: slots, warnings and a segmenter."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from tests.models.families import ROWS, decoder, empty_state, random_rows, split_model
from tests.models.nested import NestedConfig

CONFIG = NestedConfig(head_width=8, bytes_per_slot=1.0, patches_per_slot=1.0)
FEW_INSIDE = dataclasses.replace(CONFIG, patches_per_slot=8.0)


@pytest.mark.parametrize(("config", "fills"), [(CONFIG, False), (FEW_INSIDE, True)])
def test_a_row_is_full_when_any_of_its_levels_is(config, fills):
    params, extend = decoder(config)
    lengths = np.full(ROWS, 15, np.int32)
    _, state = extend(params, random_rows(0).ids, empty_state(config), lengths)
    assert not (state.parts.patching.left == 0).any()
    full = nnx.merge(*split_model(config)).full_rows(state)
    np.testing.assert_array_equal(full, state.parts.inner.patching.left == 0)
    assert full.any() == fills
