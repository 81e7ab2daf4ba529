"""Numbers of scripts, and each mistake in naming them."""

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.data.corpus.packing import script_ids


def test_numbers_follow_the_order_of_the_known_names():
    ids = script_ids(["rus", "eng"], ("eng", "hin", "rus"), "x")
    np.testing.assert_array_equal(ids, np.array([2, 0], np.int32))
    assert ids.dtype == np.int32


@pytest.mark.parametrize("found", [None, []])
def test_a_source_without_scripts(found):
    with pytest.raises(UserError, match=r"documents of x have no script.*data.script_key"):
        script_ids(found, ("eng",), "x")


def test_every_unknown_script_is_named():
    with pytest.raises(UserError, match=r"x has documents of the script tha, hin.*\(eng, rus\)"):
        script_ids(["tha", "eng", "hin"], ("eng", "rus"), "x")
