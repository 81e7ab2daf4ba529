import json
import lzma
import math
from types import SimpleNamespace

import numpy as np
import pytest

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.data.config import DataConfig
from bytelm.evaluation.languages import Languages, read_parallel
from bytelm.evaluation.suite import Scoring, evaluate
from bytelm.inference.scoring import DocumentScores
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.models.compiled import LENGTH, split_model
from tests.models.families import FAMILIES

ENGLISH = [b"I see the sea.", b"He sees.", b"Where is it? Over there."]
RUSSIAN = ["Я вижу море.".encode(), "Маша видит.".encode(), "Где оно? Там.".encode()]
PARALLEL = {"rus": RUSSIAN, "eng": ENGLISH}


class Flat:
    """A model that spends 3 bits on each byte and 5 on each END, and has two bytes in a token.

    It takes 10 FLOPs for START and for each token.
    """

    has_encoder = has_patches = False
    context = 64
    config = SimpleNamespace(model=SimpleNamespace(forward_flops=lambda length, _: 10 * length))

    def score_documents(self, documents, *, stride, batch_size):
        lengths = np.array([len(document) for document in documents])
        return DocumentScores(
            byte_nats=3 * math.log(2) * lengths,
            end_nats=np.full(len(lengths), 5 * math.log(2)),
            bytes=lengths,
            symbols=-(-lengths // 2),
        )


def languages(model, parallel, **options):
    """The figures' values by name, and the ends of the premiums' intervals."""
    values = {}
    for figure in Languages(**options).compare(model, parallel, Scoring()):
        values[figure.name] = figure.value
        if figure.interval:
            values[f"{figure.name}_low"], values[f"{figure.name}_high"] = figure.interval
    return values


def test_figures_by_hand():
    found = languages(Flat(), {"xyz": [b"ab", "дд".encode()], "eng": [b"a", b"abc"]})
    assert found == pytest.approx(
        {
            "language/xyz/bits_per_sentence": 9,
            "language/xyz/premium": 1.5,
            "language/xyz/patches_per_sentence": 1.5,
            "language/xyz/patches_premium": 1,
            "language/xyz/flops_per_sentence": 25,
            "language/xyz/flops_premium": 1,
            "language/xyz/bytes_per_patch": 2,
            "language/xyz/bytes_per_sentence": 3,
            "language/xyz/bytes_premium": 1.5,
            "language/xyz/bytes_per_character": 1.5,
            "language/xyz/bytes_per_character_premium": 1.5,
            "language/xyz/bits_per_character": 4.5,
            "language/xyz/bpb": 3,
            "language/eng/bits_per_sentence": 6,
            "language/eng/premium": 1,
            "language/eng/patches_per_sentence": 1.5,
            "language/eng/patches_premium": 1,
            "language/eng/flops_per_sentence": 25,
            "language/eng/flops_premium": 1,
            "language/eng/bytes_per_patch": 4 / 3,
            "language/eng/bytes_per_sentence": 2,
            "language/eng/bytes_premium": 1,
            "language/eng/bytes_per_character": 1,
            "language/eng/bytes_per_character_premium": 1,
            "language/eng/bits_per_character": 3,
            "language/eng/bpb": 3,
        },
        rel=1e-12,
    )


def test_intervals_resample_sentences_with_their_translations():
    """The lengths of sentences spread widely, and their ratios not at all."""
    english = [b"a" * n for n in (1, 3, 9, 27, 81) * 2]
    found = languages(Flat(), {"eng": english, "deu": [text * 2 for text in english]})
    assert found["language/deu/premium_low"] == pytest.approx(2)
    assert found["language/deu/premium_high"] == pytest.approx(2)


def test_the_reference_and_the_number_of_sentences_can_be_chosen():
    found = languages(Flat(), PARALLEL, reference="rus", max_sentences=1)
    assert found["language/rus/premium"] == 1
    assert found["language/eng/premium"] == len(ENGLISH[0]) / len(RUSSIAN[0])
    assert found["language/eng/bits_per_sentence"] == pytest.approx(3 * len(ENGLISH[0]))


def test_a_model_with_patches_from_a_file_to_figures(tmp_path):
    def lines(code, some):
        return b"\n".join([*PARALLEL[code][some], b""]).decode()

    path = write(
        tmp_path / "parallel.jsonl.xz",
        ("a", "eng", lines("eng", slice(2))),
        ("b", "eng", lines("eng", slice(2, 3))),
        ("b", "rus", lines("rus", slice(2, 3))),
        ("a", "rus", lines("rus", slice(2))),
    )
    config = ExperimentConfig(model=FAMILIES["spacebyte"], data=DataConfig(sequence_length=LENGTH))
    model = LoadedModel(SavedModel(config, 7, *split_model(FAMILIES["spacebyte"]), {}))
    report = evaluate(model, None, [Languages(files=(path,))])
    found = {name: figure.value for name, figure in report.figures.items()}
    assert report.text is None
    about = report.results["languages"].text
    assert about["documents"] == 4 and about["bytes"] == sum(map(len, (*ENGLISH, *RUSSIAN))) + 6
    (chart,) = report.results["languages"].charts
    assert chart.bars == ("eng", "rus")
    assert [line.label for line in chart.series] == ["bits", "patches", "flops", "bytes"]
    for code, sentences in PARALLEL.items():
        scores = model.score_documents(sentences, batch_size=1)
        bits = scores.bits().sum()
        patches = sum(len(model.segment(text, batch_size=1).pieces) for text in sentences)
        flops = 0.0
        for text in sentences:
            vectors = model.segment(text).levels[0].boundaries.sum()
            windows = max((len(text) + 1) / LENGTH, 1)
            length = min(len(text) + 1, LENGTH)
            flops += windows * model.config.model.forward_flops(length, vectors / windows)
        expected = {
            "flops_per_sentence": flops / 3,
            "bytes_per_patch": scores.bytes.sum() / patches,
            "bits_per_sentence": bits / 3,
            "patches_per_sentence": patches / 3,
            "bytes_per_sentence": scores.bytes.sum() / 3,
            "bits_per_character": bits / sum(len(text.decode()) for text in sentences),
            "bpb": scores.bits_per_byte(),
        }
        for name, value in expected.items():
            assert found[f"language/{code}/{name}"] == pytest.approx(value, rel=1e-9)
    assert found["language/rus/patches_premium"] != found["language/rus/bytes_premium"]


def test_a_reference_that_is_missing_and_numbers_that_differ():
    with pytest.raises(UserError, match=r"no eng in the parallel text.* from rus"):
        languages(Flat(), {"rus": RUSSIAN})
    with pytest.raises(UserError, match="2 sentences in rus and 3 in eng"):
        languages(Flat(), {"rus": RUSSIAN[1:], "eng": ENGLISH})
    with pytest.raises(UserError, match="0 sentences in eng"):
        languages(Flat(), {"eng": []})


def test_parallel_text_must_be_named():
    with pytest.raises(UserError, match=r"languages\.files"):
        evaluate(Flat(), None, ["languages"])


def write(path, *records):
    keys = ("id", "lang", "text")
    lines = [json.dumps(dict(zip(keys, record, strict=True))) for record in records]
    content = "\n".join(lines).encode()
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    return str(path)


def test_translations_may_lie_in_other_files_and_in_another_order(tmp_path):
    write(tmp_path / "1.jsonl", ("a", "eng", "one\ntwo\r\n"), ("b", "eng", " x\u2028y\n"))
    write(tmp_path / "2.jsonl", ("b", "deu", "ü"), ("a", "deu", "eins\nzwei"))
    found = read_parallel([str(tmp_path / "*.jsonl")])
    assert found == {
        "eng": [b"one", b"two\r", " x\u2028y".encode()],
        "deu": [b"eins", b"zwei", "ü".encode()],
    }


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (("b", "deu", "x"), "document a exists in eng and not in deu"),
        (("b", "eng", "x"), "document b exists in eng and not in fra"),
        (("a", "eng", "x\ny"), "document a appears twice in eng"),
        (("a", "deu", "x\n"), "document a has 1 line in deu and 2 in eng"),
        (("a", "deu", "\nx\n"), "document a in deu, line 1 is empty"),
        (("a", "deu", 3), "line 3: the value of 'text' is not a string"),
        (("a", 3, "x\ny"), "line 3: the value of 'lang' is not a string"),
        ((3, "deu", "x\ny"), "line 3: the value of 'id' is not a string"),
    ],
)
def test_languages_that_are_not_aligned(tmp_path, record, message):
    path = write(tmp_path / "a.jsonl", ("a", "eng", "x\ny"), ("a", "fra", "x\ny"), record)
    with pytest.raises(UserError, match=message):
        read_parallel([path])


def test_files_without_a_document(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl: the files hold no document"):
        read_parallel([str(tmp_path / "a.jsonl")])
    with pytest.raises(UserError, match="no file matches"):
        read_parallel([str(tmp_path / "b.jsonl")])
