import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.evaluation.positions import Positions, position_in_patch
from tests.evaluation.table_models import Pairs, Table, loaded, random_table, run, text_bits, values

DOCUMENTS = [b"some words. of two", b"", b"x", b" a b.. cd", b"\xff\xfe" * 9]
LOGITS, BITS = random_table()


@pytest.fixture(scope="module")
def model():
    return loaded(Table(LOGITS, levels=2))


def in_document(first, last):
    """Bits per byte of the positions from `first` to `last`, by hand."""
    found = np.concatenate([text_bits(BITS, text)[first - 1 : last] for text in DOCUMENTS])
    return pytest.approx(found.mean(), rel=1e-5)


@pytest.mark.parametrize("stride", [None, 1])
def test_bits_by_position_in_the_document(model, stride):
    found = values(run(Positions(first=2), model, DOCUMENTS, stride=stride))
    names = {"1-2": (1, 2), "3-4": (3, 4), "5-8": (5, 8), "9-16": (9, 16), "17-32": (17, 32)}
    expected = {f"bpb_at_position/{name}": in_document(*ends) for name, ends in names.items()}
    assert {n: value for n, value in found.items() if n.startswith("bpb_at_p")} == expected
    assert values(run(Positions(), model, DOCUMENTS))["bpb_at_position/1-16"] == in_document(1, 16)
    assert "bpb_at_position/1" in values(run(Positions(first=1), model, DOCUMENTS))


def test_bits_by_position_in_the_patch_of_each_level(model):
    found = values(run(Positions(), model, DOCUMENTS))
    for level, mark in (("", b" "), ("level_2/", b".")):
        places = {"1": [], "2": [], "3-4": [], "5-8": []}
        for text in DOCUMENTS:
            place = 0
            for bits, byte in zip(text_bits(BITS, text), text, strict=True):
                place = 1 if bytes([byte]) == mark else place + 1
                name = {1: "1", 2: "2", 3: "3-4", 4: "3-4"}.get(place, "5-8")
                if place <= 8:
                    places[name].append(bits)
        for name, bits in places.items():
            assert found[f"bpb_in_patch/{level}{name}"] == pytest.approx(np.mean(bits), rel=1e-5)


def test_documents_give_an_interval_and_a_cut_one_ends(model):
    result = run(Positions(first=4), model, [b"abcdef"] * 9 + [b"abcxyz"] * 2, max_bytes=63)
    first, second = result.figures[:2]
    assert first.low < first.value < first.high and second.low <= second.value <= second.high
    assert result.details["ranges"] == [
        {"documents": 11, "bytes": 43},  # of the last document 3
        {"documents": 10, "bytes": 20},
    ]
    with pytest.raises(UserError, match="hold no bytes"):
        run(Positions(), model, [b"", b""])


def test_parts_of_figures_are_in_the_order_of_the_documents():
    model = loaded(Table(LOGITS, levels=2), context=128)
    texts = [b"a" * 150, b"ab", b"", b"c" * 300, b"x"]  # long and short ones in other batches
    result = run(Positions(first=64), model, texts, batch_size=1)
    assert list(result.items) == [figure.name for figure in result.figures]
    first = result.items["bpb_at_position/1-64"]
    assert first.counts.tolist() == [64, 2, 64, 1]
    expected = [text_bits(BITS, text)[:64].sum() for text in texts if text]
    np.testing.assert_allclose(first.sums, expected, rtol=1e-5)


def test_a_token_counts_where_it_begins():
    logits, bits = random_table(Pairs.vocabulary, seed=1)
    flat = loaded(Table(logits), Pairs())
    found = values(run(Positions(first=2), flat, [b"cabc"]))  # c, ab, c
    start = Pairs.vocabulary.start
    first, second = bits[start, ord("c")] + bits[ord("c"), 256], bits[256, ord("c")]
    assert found == pytest.approx(
        {"bpb_at_position/1-2": first / 3, "bpb_at_position/3-4": second}, rel=1e-5
    )


def test_positions_in_patches_begin_at_each_start():
    starts = np.array([0, 0, 1, 1, 0], bool)
    assert position_in_patch(starts).tolist() == [1, 2, 1, 1, 2]
