import json
from types import SimpleNamespace

import pytest

from bytelm.training.checkpoints.own_parts import is_part, own_parts

ALL = slice(None)


def array(shape, *indices):
    """An array of which the devices of this process have some parts."""
    sharding = SimpleNamespace(addressable_devices_indices_map=lambda _: dict(enumerate(indices)))
    return SimpleNamespace(shape=shape, sharding=sharding)


@pytest.mark.parametrize(
    ("chunks", "had", "wanted"),
    [
        ((4, 6), array((8, 6), (slice(4, 8), ALL)), ["1.0"]),
        ((4, 6), array((8, 6), (ALL, ALL), (ALL, ALL)), ["0.0", "1.0"]),
        # Other parts than those of the run that wrote it; the last one is a short one.
        ((3, 2), array((8, 6), (slice(4, 8), slice(0, 3))), ["1.0", "1.1", "2.0", "2.1"]),
        ((4, 6), array((8, 7), (slice(4, 8), ALL)), None),  # of another shape: all
        ((), array((), ()), ["0"]),
    ],
)
def test_parts_of_this_process(tmp_path, chunks, had, wanted):
    shape = (8, 6) if had.shape == (8, 7) else had.shape
    (tmp_path / "a.b").mkdir()
    about = {"shape": shape, "chunks": chunks, "dimension_separator": "."}
    (tmp_path / "a.b" / ".zarray").write_text(json.dumps(about))
    counts = [range(-(-length // size)) for length, size in zip(shape, chunks, strict=True)]
    places = [f"{i}.{j}" for i in counts[0] for j in counts[1]] if chunks else ["0"]
    others = ["other/0.0", "other/1.0"]  # what is not understood is fetched
    found = own_parts(tmp_path, [*(f"a.b/{place}" for place in places), *others], {"a": {"b": had}})
    assert found == [*(f"a.b/{place}" for place in wanted or places), *others]


def test_what_describes_arrays_is_no_part():
    assert [
        is_part(name) for name in ("a.b/0.1", "a.b/0", "a.b/.zarray", "d/1234", "_METADATA")
    ] == [True, True, False, True, False]
