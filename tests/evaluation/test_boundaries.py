import gzip
import itertools
import math

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.evaluation.boundaries import Boundaries, agreement_with, evenly
from bytelm.evaluation.characters import KINDS, byte_kinds, letter_runs
from bytelm.evaluation.morphemes import read_morphemes
from tests.evaluation.table_models import Table, loaded, run, table, values

TEXT = b"Unhappy cats. ran .."


@pytest.fixture(scope="module")
def model():
    """Patches start at spaces, those of the inner level at dots."""
    return loaded(Table(table(), levels=2))


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_bytes(b"unhappy\tun happy\tadjective\r\n\ncats\tcat s\nunhappy\tunhap py\n")
    return path


def test_agreement_by_hand(model):
    found = values(run(Boundaries(), model, [TEXT]))
    # Patches start at bytes 7, 13 and 17; words at 8, 14 and 18; those of dots at 12, 18 and 19.
    wanted = {
        "word_start/precision": 0,
        "word_start/recall": 0,
        "word_start/f1": 0,
        "word_start/random_f1": 3 / 19,
        "whitespace_start/f1": 1,
        "whitespace_start/precision": 1,
        "word_start/level_2/precision": 1 / 3,
        "word_start/level_2/recall": 1 / 3,
        "word_start/level_2/f1": 1 / 3,
        "whitespace_start/level_2/f1": 0,
        "boundary_lift/whitespace": 19 / 3,
        "boundary_lift/letter": 0,
        "boundary_lift/punctuation": 0,
        "boundary_lift/level_2/punctuation": 19 / 3,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert len(found) == 2 * (2 * 5 + 3)
    # Of 19 places, evenly: 6, 12 and 18 from byte 1 on, which are the bytes 7, 13 and 19.
    assert found["whitespace_start/even_f1"] == pytest.approx(2 / 3)


def test_morphemes_count_inside_known_words_alone(model, words):
    result = run(Boundaries(morphemes=str(words)), model, [TEXT, b"catscats"])
    found = values(result)
    assert (result.details["words"], result.details["known_words"]) == (4, 2)
    assert found["morpheme/recall"] == 0 and math.isnan(found["morpheme/precision"])
    expected, places, *_ = read_morphemes(words, " ").find(TEXT)
    assert np.flatnonzero(expected).tolist() == [2, 11]
    assert np.flatnonzero(places).tolist() == [1, 2, 3, 4, 5, 6, 9, 10, 11]
    found = agreement_with(np.isin(np.arange(len(TEXT)), [0, 2, 4, 7, 8]), expected, places)
    assert found == (2, 2, 1, 2 * 2 / 9, 1)  # evenly: the places 4 and 8 of these, bytes 5 and 11


def test_controls_have_as_many_boundaries():
    expected, everywhere = np.array([1, 0, 0, 1, 1, 0], bool), np.ones(6, bool)
    for number in range(7):
        hits = []
        for chosen in itertools.combinations(range(6), number):
            starts = np.isin(np.arange(6), chosen)
            agreement = agreement_with(starts, expected, everywhere)
            hits.append(agreement.hits)
        assert agreement.random_hits == pytest.approx(np.mean(hits))
        spread = evenly(number, 6)
        assert spread.sum() == number and agreement.even_hits == (spread & expected).sum()
        assert not number or len(set(np.diff(np.flatnonzero(spread)))) <= 2
    assert agreement_with(expected, expected, ~everywhere) == (0, 0, 0, 0, 0)


def test_documents_give_intervals(model):
    result = run(Boundaries(), model, [b"one two", b"a.b c. d", b"x y.. z"] * 5)
    for figure in result.figures:
        assert math.isnan(figure.value) or figure.low <= figure.value <= figure.high
    chart, lifts = result.charts
    assert chart.bars == ("word_start", "whitespace_start")
    assert [line.label for line in chart.series][:2] == ["level 1", "level 1, random"]
    assert lifts.bars == ("letter", "whitespace", "punctuation")


def test_kinds_of_bytes():
    text = "aé1 \u3000-€\x00\x1c\u0301".encode() + b"\xff"
    kinds = [KINDS[kind] for kind in byte_kinds(text)]
    more = "continuation"
    assert kinds == [
        *("letter", "letter", more, "digit", "whitespace", "whitespace", more, more),
        *("punctuation", "punctuation", more, more, "other", "other", "letter", more, "other"),
    ]
    assert byte_kinds(b"").tolist() == [] and list(letter_runs(b" 1")) == []
    assert list(letter_runs("é-ab\xe4".encode())) == [(0, 2), (3, 7)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cats\tcat s\nunhappy", r"line 2 is not a word, a tab and its morphemes"),
        (b"\tcat s", "line 1 is not a word"),
        (b"cats\tcat|s", r"line 1: the morphemes 'cat|s', separated by ' ', do not make up the wo"),
        (b"happiness\thappy ness", "do not make up the word 'happiness'"),
        (b"\n", "holds no word"),
    ],
)
def test_a_file_that_is_no_list_of_morphemes(tmp_path, model, content, message):
    path = tmp_path / "words.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_morphemes(path, " ")
    with pytest.raises(UserError, match="cannot be read"):
        read_morphemes(tmp_path / "none", " ")


def test_other_separators_and_compressed_files(tmp_path):
    path = tmp_path / "words.tsv.gz"
    path.write_bytes(gzip.compress("größe\tgröß @@e\nun\tun\n".encode()))
    morphemes = read_morphemes(path, " @@")
    assert morphemes.starts == {"größe".encode(): (6,), b"un": ()}
    expected, places, words, known = morphemes.find("Größe, UN é".encode())
    assert np.flatnonzero(expected).tolist() == [6] and places.sum() == 6 + 1
    assert (words, known) == (3, 2)
    with pytest.raises(UserError, match="separator"):
        Boundaries(separator="")
