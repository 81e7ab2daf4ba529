"""The arrays next to packed text: scripts and pieces, and how damage to any of them is mended."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bytelm.core.errors import UserError
from bytelm.data.corpus import subwords
from bytelm.data.corpus.cache import FORMAT
from bytelm.data.corpus.packing import Rows
from bytelm.data.open_data import OpenData
from bytelm.tokenizers.unigram import Unigram


def opened(config, unigram=None):
    data = OpenData(config)
    data.unigram = unigram
    return data.corpus(data.sources[0], "train")


@pytest.fixture
def of_two_scripts(config, tmp_path):
    """Documents of two scripts in turn."""
    path = tmp_path / "scripts.jsonl"
    lines = [{"text": f"{n} мир", "lang": "abc"[n % 5 % 3] * 2} for n in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return replace(
        config, source=replace(config.source, files=(str(path),), script_key="lang", held_out=0.0)
    )


def test_text_without_scripts_has_no_file_of_them(config):
    """Asking for no scripts needs no file of them."""
    corpus = opened(config)
    assert {path.name for path in corpus.directory.iterdir()} == {
        "symbols-0.bin",
        "starts.bin",
        "passages-0.bin",
        "summary.json",
        "digests.bin",
    }
    summary = json.loads((corpus.directory / "summary.json").read_text())
    assert summary["settings"] == {
        "split": "train",
        "held_out": 0.1,
        "reading": 2,
        "split_above": 2**20,
        "text_key": "text",
        "skip_bad": False,
    }
    assert corpus.directory.name.endswith(f"-v{FORMAT}")
    assert corpus.scripts is None
    assert corpus.boundaries is None


def test_scripts_have_the_numbers_of_their_names(of_two_scripts):
    expected = np.array([n % 5 % 3 for n in range(40)])
    for names, numbers in (("aa bb cc", [0, 1, 2]), ("cc x aa bb", [2, 3, 0])):
        corpus = opened(replace(of_two_scripts, scripts=tuple(names.split())))
        np.testing.assert_array_equal(corpus.scripts, np.array(numbers)[expected])
        assert corpus.scripts.dtype == np.int32
        sent = pickle.loads(pickle.dumps(corpus))
        np.testing.assert_array_equal(sent.scripts, corpus.scripts)
    assert opened(of_two_scripts).scripts is None


def test_scripts_that_are_not_known(config, of_two_scripts):
    with pytest.raises(UserError, match=r"scripts.jsonl has documents of the script cc, which"):
        opened(replace(of_two_scripts, scripts=("aa", "bb")))
    with pytest.raises(UserError, match=r"documents of documents.jsonl have no script"):
        opened(replace(config, scripts=("aa",)))
    with pytest.raises(UserError, match="documents of the script bb, which"):
        opened(replace(config, source=replace(config.source, script="bb"), scripts=("aa",)))


def test_another_script_or_key_is_packed_anew(config, of_two_scripts):
    path = Path(of_two_scripts.source.files[0])
    lines = [json.loads(line) | {"other": "aa"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scripts = ("cc", "bb", "aa")
    by_lang = opened(replace(of_two_scripts, scripts=scripts))
    by_other = opened(
        replace(
            of_two_scripts,
            source=replace(of_two_scripts.source, script_key="other"),
            scripts=scripts,
        )
    )
    assert set(by_lang.scripts) == {0, 1, 2}
    assert set(by_other.scripts) == {2}
    for number, script in enumerate(scripts):
        corpus = opened(
            replace(config, source=replace(config.source, script=script), scripts=scripts)
        )
        assert set(corpus.scripts) == {number}
    assert by_lang.fingerprint == by_other.fingerprint


def test_pieces_are_found_once_for_each_text_and_model(
    config, tmp_path, unigram_model, monkeypatch
):
    config = replace(config, source=replace(config.source, held_out=0.0))
    unigram = Unigram(unigram_model)
    corpus = opened(config, unigram)
    expected = [unigram.boundaries(text) for text in corpus.documents()]
    np.testing.assert_array_equal(corpus.boundaries, np.concatenate(expected))
    assert corpus.boundaries[:].dtype == np.bool_
    sent = pickle.loads(pickle.dumps(corpus))
    np.testing.assert_array_equal(sent.boundaries, corpus.boundaries)

    with monkeypatch.context() as patch:
        patch.setattr(Unigram, "boundaries", lambda *arguments: pytest.fail("was cut again"))
        opened(config, Unigram(unigram_model))

    class EveryByte:
        digest = "other"

        def boundaries(self, document):
            return np.ones(len(document) + 2, np.bool_)

    assert np.all(opened(config, EveryByte()).boundaries)
    assert not np.all(opened(config, unigram).boundaries)
    with open(config.source.files[0], "a") as file:
        file.write('{"text": "one more"}\n')
    assert len(opened(config, unigram).boundaries) == len(corpus.boundaries) + 10


def test_damaged_pieces_are_found_again(config, unigram_model):
    corpus = opened(config, Unigram(unigram_model))
    (stored,) = config.cache_path.glob("boundaries/*/boundaries.bin")
    expected = np.array(corpus.boundaries)
    stored.write_bytes(b"")
    np.testing.assert_array_equal(opened(config, Unigram(unigram_model)).boundaries, expected)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["starts.bin", "summary.json", "digests.bin", "scripts.bin"])
def test_damage_that_is_seen_on_opening_is_mended(of_two_scripts, name):
    config = replace(of_two_scripts, scripts=("aa", "bb", "cc"))
    corpus = opened(config)
    expected = list(corpus.documents()), corpus.scripts.tolist()
    flip(corpus.directory / name, 9)
    again = opened(config)
    assert (list(again.documents()), again.scripts.tolist()) == expected


@pytest.mark.parametrize("what", ["symbols", "boundaries"])
def test_damaged_text_is_never_a_row_and_is_packed_again_next_time(config, unigram_model, what):
    unigram = Unigram(unigram_model)
    expected = Rows(opened(config, unigram), 16).batch([0, 1, 2])
    (path,) = config.cache_path.glob(f"*/*/{what}*.bin")
    flip(path, 20)
    with pytest.raises(
        UserError, match=rf"{what}(-0)?.bin is damaged at bytes 0 to \d+: .*--resume"
    ):
        Rows(opened(config, unigram), 16).batch([1])
    again = Rows(opened(config, unigram), 16).batch([0, 1, 2])
    np.testing.assert_equal(again, expected)


def test_pieces_go_on_where_they_were(config, unigram_model, monkeypatch):
    monkeypatch.setattr(subwords, "SAVE_SECONDS", -1.0)
    config, unigram = (
        replace(config, source=replace(config.source, held_out=0.0)),
        Unigram(unigram_model),
    )
    boundaries, texts = unigram.boundaries, []

    def stopped(text):
        if len(texts) == 30:
            raise KeyboardInterrupt
        texts.append(text)
        return boundaries(text)

    monkeypatch.setattr(unigram, "boundaries", stopped)
    with pytest.raises(KeyboardInterrupt):
        opened(config, unigram)
    monkeypatch.setattr(unigram, "boundaries", lambda text: texts.append(text) or boundaries(text))
    corpus = opened(config, unigram)
    assert texts == list(corpus.documents())
    np.testing.assert_array_equal(corpus.boundaries, np.concatenate([*map(boundaries, texts)]))
