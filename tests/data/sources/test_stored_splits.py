"""Which stored split is read for what, and parts that would be read for two things."""

import pytest

from bytelm.core.errors import UserError
from bytelm.data.sources.stored_splits import usual_splits

SPLITS = ("train", "validation", "test")


def chosen(available, **named):
    return usual_splits("d", available, {split: named.get(split) for split in SPLITS})


def test_usual_names():
    assert chosen(["train", "valid", "dev"]) == {"train": "train", "validation": "valid"}
    assert chosen(["text"]) == {"train": "text"}
    assert chosen(["train", "test"], train="test") == {"train": "test"}
    assert chosen(["test", "validation"], test="validation", train="test") == {
        "train": "test",
        "test": "validation",
    }


@pytest.mark.parametrize("available", [["test"], ["validation", "test"]])
def test_held_out_text_is_not_trained_on_unless_it_is_named(available):
    found = chosen(available)
    assert "train" not in found
    assert found["test"] == "test"
    with pytest.raises(UserError, match=r"no split `train`; .*test with .* --split .*test\."):
        found["train"]
    assert chosen(available, train="test")["train"] == "test"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("train", "train"),
        (None, "train[90%:]"),
        ("train[:90%]", "train[-20%:]"),
        ("train[:9000]", "test+train[8999:]"),
        ("train[:5]", "train"),
    ],
)
def test_parts_that_share_documents_are_refused(one, other):
    with pytest.raises(UserError, match=r"the train split .* shares documents with the validation"):
        chosen(["train", "test"], train=one, validation=other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("train[:90%]", "train[90%:]"),
        ("train[:-10%]", "train[-10%:]"),
        ("train[10:]", "train[:10]"),
        ("train[:-10]", "train[-10:]"),
        ("train+text", "test"),
    ],
)
def test_parts_that_share_none(one, other):
    assert chosen(["train", "text"], train=one, validation=other)["validation"] == other
