"""Lengths of the published runs, from FLOPs counted by hand."""

import pytest

from bytelm.recipes.spacebyte import BATCH, megabyte, spacebyte

SIZES = {"global_width": 128, "local_width": 64, "global_depth": 3, "local_depth": 2}


def row_flops(length: int, slots: int, local_window: int) -> int:
    local = 2 * length * (12 * 64**2 + 2 * 64 * local_window)
    backbone = 3 * slots * (12 * 128**2 + 2 * 128 * slots)
    return 6 * (local + backbone + length * 64 * 256)


@pytest.mark.parametrize(
    ("run", "flops", "length", "slots"),
    [
        (lambda **of: spacebyte(**SIZES, **of), row_flops(768, 128, 64), 768, 128),
        (
            lambda **of: spacebyte(**SIZES, sequence_length=256, patches=32, **of),
            row_flops(256, 32, 64),
            256,
            32,
        ),
        (lambda **of: megabyte(**SIZES, patch_size=4, **of), row_flops(512, 128, 4), 512, 128),
    ],
    ids=["spacebyte", "other-length", "megabyte"],
)
def test_a_budget_of_flops_gives_the_steps(run, flops, length, slots):
    config = run(budget=7 * BATCH * flops)
    assert (config.train.steps, config.data.sequence_length) == (7, length)
    assert config.model.learned_positions == length
    assert config.model.bytes_per_slot in (length / slots, None)


def test_bytes_give_the_steps_too():
    assert spacebyte(**SIZES, bytes_seen=9 * BATCH * 768).train.steps == 9
