import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.core.errors import UserError
from bytelm.evaluation.perturbations import HOMOGLYPHS, NOISES, perturb

TEXTS = st.one_of(st.binary(max_size=60), st.text(max_size=40).map(lambda t: t.encode("utf-8")))
RATES = st.floats(0, 1)
SEEDS = st.integers(-(2**40), 2**40)
ANY_KIND = st.sampled_from(NOISES)
PROSE = ("The Quick Brown Fox jumps over a lazy dog, naïvely; 日本語! " * 60).encode()
KEEPS_LENGTH = ("permute", "replace", "case", "keyboard", "homoglyph")


def characters(text: bytes) -> str:
    return text.decode(errors="surrogateescape")


def changed(kind: str, rate: float, text: bytes = PROSE, seed: int = 0) -> set[int]:
    """The places at which characters differ, for kinds that keep their number."""
    before, after = characters(text), characters(perturb(text, kind, rate, seed=seed))
    assert len(before) == len(after)
    return {i for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]}


@given(kind=ANY_KIND, text=TEXTS, seed=SEEDS)
def test_rate_0_gives_the_text_itself(kind, text, seed):
    assert perturb(text, kind, 0, seed=seed) == text


@given(kind=ANY_KIND, text=TEXTS, rate=RATES, seed=SEEDS, document=st.integers(0, 2**31))
def test_the_same_arguments_give_the_same_bytes(kind, text, rate, seed, document):
    first = perturb(text, kind, rate, seed=seed, document=document)
    assert first == perturb(text, kind, rate, seed=seed, document=document)


@given(kind=ANY_KIND, text=st.text(max_size=40), rate=RATES, seed=SEEDS)
def test_valid_utf8_stays_valid(kind, text, rate, seed):
    perturb(text.encode(), kind, rate, seed=seed).decode()


@given(kind=ANY_KIND, text=st.binary(max_size=60), rate=RATES, seed=SEEDS)
def test_no_byte_is_made_up(kind, text, rate, seed):
    """Bytes that are not UTF-8 are never turned into U+FFFD, or anything else that is not there."""
    noisy = perturb(text, kind, rate, seed=seed)
    if kind == "permute":
        assert sorted(noisy) == sorted(text)
    elif kind in ("replace", "delete", "insert", "repeat"):
        assert set(noisy) <= set(text)
    else:
        pairs = zip(characters(text), characters(noisy), strict=True)
        assert all(was == now for was, now in pairs if "\udc80" <= was <= "\udcff")


@pytest.mark.parametrize("kind", KEEPS_LENGTH)
def test_a_higher_rate_hits_what_a_lower_one_does_and_more(kind):
    before = characters(PROSE)
    low, high = (characters(perturb(PROSE, kind, rate, seed=3)) for rate in (0.1, 0.4))
    hit_low, hit_high = changed(kind, 0.1, seed=3), changed(kind, 0.4, seed=3)
    assert hit_low < hit_high
    assert all(low[place] == high[place] for place in hit_low)
    assert all(high[place] == before[place] for place in set(range(len(before))) - hit_high)


def test_a_higher_rate_deletes_what_a_lower_one_does_and_more():
    text = bytes(range(128))
    kept = [set(perturb(text, "delete", rate, seed=0)) for rate in (0.1, 0.3, 0.7, 1)]
    assert kept[0] > kept[1] > kept[2] > kept[3] == set()


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_the_share_of_eligible_characters_that_is_hit_is_near_the_rate(rate):
    text = characters(PROSE)
    count = len(text)
    hits = {kind: len(changed(kind, rate)) for kind in KEEPS_LENGTH}
    hits["delete"] = count - len(characters(perturb(PROSE, "delete", rate, seed=0)))
    hits["insert"] = len(characters(perturb(PROSE, "insert", rate, seed=0))) - count
    # A hit adds 2 characters on average.
    hits["repeat"] = (len(characters(perturb(PROSE, "repeat", rate, seed=0))) - count) / 2
    eligible = dict.fromkeys(NOISES, count)
    eligible["case"] = sum(c.swapcase() != c for c in text)
    eligible["keyboard"] = sum(c.isascii() and c.isalpha() for c in text)
    eligible["homoglyph"] = sum(c in HOMOGLYPHS for c in text)
    for kind, number in eligible.items():
        assert hits[kind] / number == pytest.approx(rate, abs=0.035), kind


def test_by_hand_at_rate_1():
    def noisy(kind, text):
        return perturb(text.encode(), kind, 1, seed=0).decode()

    assert noisy("permute", "abcd") in ("badc", "acbd")
    assert sorted(noisy("replace", "ab" * 9)) == sorted("ba" * 9)
    assert noisy("replace", "ab日") not in ("", "ab日")
    assert noisy("replace", "aaa") == "aaa"  # there is no other character in the text
    assert noisy("delete", "ab日") == ""
    assert noisy("insert", "aaa") == "aaaaaa"
    assert noisy("insert", "ab日")[::2] == "ab日"
    assert 2 <= len(noisy("repeat", "日")) <= 4
    assert noisy("case", "aB1ß-é") == "Ab1ß-É"  # SS would be two characters
    assert noisy("homoglyph", "Cox, 1é") == "\u0421\u043e\u0445, 1é"
    assert noisy("keyboard", "1é ") == "1é "


def test_keys_are_neighbours_of_the_same_case():
    seen = {perturb(b"gGp", "keyboard", 1, seed=seed).decode() for seed in range(200)}
    assert {text[0] for text in seen} == set("fhtyvb")
    assert {text[1] for text in seen} == set("FHTYVB")
    assert {text[2] for text in seen} == set("ol")


def test_look_alikes_are_letters_of_another_script_and_of_the_same_case():
    for latin, other in HOMOGLYPHS.items():
        assert latin.isascii() and unicodedata.name(other).startswith(("CYRILLIC", "GREEK"))
        assert unicodedata.category(other) == unicodedata.category(latin)
    assert len(set(HOMOGLYPHS.values())) == len(HOMOGLYPHS)


def test_noise_differs_with_each_of_seed_document_and_kind():
    base = changed("replace", 0.2)
    assert base != changed("replace", 0.2, seed=1)
    first, second = (perturb(PROSE, "replace", 0.2, seed=0, document=n) for n in (0, 1))
    assert first != second
    both = {i for i in changed("case", 0.2) if i in base}
    assert len(both) < len(changed("case", 0.2)) / 2  # independent hits share a fifth


def test_the_noise_is_the_same_in_any_process_and_for_good():
    """If this fails, figures of robustness made before and after cannot be compared."""
    text = b"The quick brown fox jumps over the lazy dog."
    noisy = {kind: perturb(text, kind, 0.2, seed=0).decode() for kind in NOISES}
    assert noisy == {
        "permute": "The quickb rown fox jumps over hte lazy dog.",
        "replace": "The quick brown fox jumpsmoversnhequazy Tok.",
        "delete": "The quick bron fox jums over e lazy g.",
        "insert": "The quickc brow n foax ejumpsq over itahe layzy adog.",
        "repeat": "The quick brooownnnn ffoooox jumps    over the    llazy ddog.",
        "case": "The quiCk BROWn FoX juMPs OveR tHe LAzy dOg.",
        "keyboard": "The wujck vrown fox jukps ovee the pazy dog.",
        "homoglyph": "\u0422\u04bbe qui\u0441k br\u043ewn f\u043ex jumps "
        "\u043ev\u0435r the \u04cfazy dog.",
    }


@pytest.mark.parametrize(
    ("kind", "rate", "message"),
    [
        ("upper", 0.1, "no perturbation 'upper'"),
        ("case", -0.1, "between 0 and 1"),
        ("case", 1.1, "between 0 and 1"),
        ("case", float("nan"), "between 0 and 1"),
    ],
)
def test_bad_arguments(kind, rate, message):
    with pytest.raises(UserError, match=message):
        perturb(b"text", kind, rate, seed=0)
