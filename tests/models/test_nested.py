"""What a level inside a level has of its own: slots, warnings and a segmenter."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.statistics import warnings
from bytelm.models.hierarchy import _overflow
from bytelm.models.hnet import HNetConfig
from bytelm.patching.learned import EntropyPatches
from bytelm.patching.patches import (
    BYTES_PER_PATCH,
    SYMBOLS_PER_PATCH,
    find_patches,
    overflow_ratio,
    slots,
)
from bytelm.patching.segmenter import FixedPatches
from tests.models.compiled import ROWS, decoder, empty_state, forward, random_rows, split_model
from tests.models.nested import NestedConfig

CONFIG = NestedConfig(head_width=8, bytes_per_slot=1.0, patches_per_slot=1.0)
FEW_INSIDE = dataclasses.replace(CONFIG, patches_per_slot=8.0)


@pytest.mark.parametrize(("config", "fills"), [(CONFIG, False), (FEW_INSIDE, True)])
def test_a_row_is_full_when_any_of_its_levels_is(config, fills):
    params, extend = decoder(config)
    lengths = np.full(ROWS, 15, np.int32)
    _, state = extend(params, random_rows(0).ids, empty_state(config), lengths)
    assert not state.parts.patching.ignored.any()
    full = nnx.merge(*split_model(config)).full_rows(state)
    np.testing.assert_array_equal(full, state.parts.inner.patching.ignored > 0)
    assert full.any() == fills


def test_each_level_tells_of_its_own_overflow_and_names_its_option():
    output = forward(FEW_INSIDE)(split_model(FEW_INSIDE)[1], random_rows(0))
    outer, inner = output.statistics[:2]
    assert (outer.statistic.name, inner.statistic.name) == ("overflow", "overflow/level_2")
    assert outer.total == 0 < inner.total
    # Where the slots inside do not suffice, a longer row may have other scores.
    assert output.overflow == inner.total
    sizes = BYTES_PER_PATCH(16, 4), SYMBOLS_PER_PATCH.at(2)(4, 2)
    found = warnings((*output.statistics, *sizes))
    assert found.keys() == {inner.statistic.name}
    assert "of level 2 found no free slot" in found[inner.statistic.name]
    assert "set model.patches_per_slot to " in found[inner.statistic.name]


def test_the_capacity_that_a_warning_of_an_inner_level_names_is_enough():
    patches = find_patches(np.arange(24)[None, :] % 2 == 0, np.ones((1, 24), int), 4)
    ratio = overflow_ratio(patches, "patches_per_slot", level=2)
    size = SYMBOLS_PER_PATCH.at(2)(24, patches.total.sum())
    warning = ratio.warn({each.statistic.name: each.value for each in (ratio, size)})
    enough = float(re.search("to ([0-9.]+) or less", warning)[1])
    assert 1 < enough <= 2 and slots(24, enough) >= 12


def test_a_warning_names_the_item_of_a_tuple_of_capacities():
    patches = find_patches(np.ones((1, 24), bool), np.ones((1, 24), int), 4)
    config = HNetConfig(layout="m1 [m1 [T1] m1] m1", widths=(64, 64, 64))
    ratios = _overflow((SimpleNamespace(patches=patches),) * 2, config)
    told = [ratio.warn.option for ratio in ratios]
    assert told == ["bytes_per_slot", "patches_per_slot[0]"]


def test_an_inner_segmenter_is_refused_under_its_own_name_and_for_its_own_reason():
    refusal = r"^model\.inner_segmenter entropy does not fit .* known of bytes alone, and cuts"
    with pytest.raises(UserError, match=refusal):
        dataclasses.replace(CONFIG, inner_segmenter=EntropyPatches())


def test_any_segmenter_that_fits_can_cut_inside():
    config = dataclasses.replace(
        CONFIG, inner_segmenter=FixedPatches(2), patches_per_slot=None, bytes_per_slot=2.0
    )
    assert config.inner_capacity(16) == 9  # an eighth more than 8
    levels = forward(config)(split_model(config)[1], random_rows(0)).levels
    outer, inner = (level.boundaries.sum(axis=1) for level in levels)
    np.testing.assert_array_equal(inner, -(-outer // 2))
