from types import SimpleNamespace

import numpy as np
import pytest

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START, Vocabulary
from bytelm.data.config import DataConfig
from bytelm.evaluation.perturbations import NOISES, perturb
from bytelm.evaluation.robustness import NextBytes, Robustness
from bytelm.evaluation.suite import evaluate
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.evaluation.table_models import CONTEXT, Pairs, Table, loaded, run, table, values
from tests.models.compiled import LENGTH, split_model
from tests.models.families import FAMILIES


def robustness(model, documents, *, stride=None, batch_size=8, max_bytes=None, **options):
    """The figures' values by name."""
    scoring = {"stride": stride, "batch_size": batch_size, "max_bytes": max_bytes}
    return values(run(Robustness(**options), model, documents, **scoring))


@pytest.fixture(scope="module")
def constant():
    """Every byte is as likely as the others, and never the end; the first is called likeliest."""
    logits = table()
    logits[:, END] = -np.inf
    return loaded(Table(logits))


@pytest.fixture(scope="module")
def echo():
    """Expects the last byte again, and zeros at the start."""
    logits = table()
    logits[range(256), range(256)] = 9
    logits[START, 0] = 9
    return loaded(Table(logits))


def test_a_constant_model_spends_8_bits_a_byte_on_any_noise(constant):
    documents = [bytes(range(256)), b"\xff\xfe plain", b""]
    found = robustness(constant, documents, rates=(0.3,), stride=3)
    assert set(found) == {"perturbed/none/0/bpb", "perturbed/none/0/accuracy"} | {
        f"perturbed/{kind}/{name}"
        for kind in NOISES
        for name in ("0.3/bpb", "0.3/accuracy", "mean_bpb", "mean_accuracy")
    }
    for name, value in found.items():
        if name.endswith("bpb"):
            assert value == pytest.approx(8, rel=1e-6)
    raw = sum(map(len, documents))
    assert found["perturbed/none/0/accuracy"] == 1 / raw
    for kind in ("replace", "insert"):
        noisy = [perturb(text, kind, 0.3, seed=0, document=i) for i, text in enumerate(documents)]
        zeros, size = sum(text.count(0) for text in noisy), sum(map(len, noisy))
        assert found[f"perturbed/{kind}/0.3/accuracy"] == zeros / size


@pytest.mark.parametrize("stride", [None, 1, 5, CONTEXT])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_byte_counts_once_and_the_end_never(echo, stride, batch_size):
    documents = [b"aabbbbcccccccccccccccccccc", b"\0x", b"", b"\0" * 9]
    right = 1 + 3 + 19 + 1 + 9
    found = robustness(echo, documents, kinds=(), stride=stride, batch_size=batch_size)
    assert found["perturbed/none/0/accuracy"] == right / (26 + 2 + 9)
    more = robustness(echo, documents, kinds=("repeat",), rates=(0, 1), stride=stride)
    assert more["perturbed/repeat/0/accuracy"] == found["perturbed/none/0/accuracy"]
    assert more["perturbed/repeat/0/bpb"] == pytest.approx(found["perturbed/none/0/bpb"], rel=1e-6)
    assert more["perturbed/repeat/1/accuracy"] > found["perturbed/none/0/accuracy"]
    assert more["perturbed/repeat/1/bpb"] < found["perturbed/none/0/bpb"]


def test_means_are_areas_under_the_curves_over_rates(echo):
    documents = [b"aabbbbcc", b"ab", b"cccccccc"] * 4
    model, options = echo, {"kinds": ("case", "repeat")}
    result = run(Robustness(rates=(1, 0.25), **options), model, documents)
    found = values(result)
    for kind in options["kinds"]:
        for measure in ("bpb", "accuracy"):
            none, low, high = (
                found[f"perturbed/{name}/{measure}"]
                for name in ("none/0", f"{kind}/0.25", f"{kind}/1")
            )
            area = 0.25 * (none + low) / 2 + 0.75 * (low + high) / 2
            assert found[f"perturbed/{kind}/mean_{measure}"] == pytest.approx(area, rel=1e-12)
    assert not {"perturbed/case/mean_bpb"} & set(
        values(run(Robustness(kinds=("case",), rates=(0,)), model, documents))
    )
    assert all(figure.low <= figure.value <= figure.high for figure in result.figures)


def test_the_end_is_a_wrong_guess_for_a_byte():
    logits = table()
    logits[:, END] = 9
    assert (
        robustness(loaded(Table(logits)), [b"some text"], kinds=())["perturbed/none/0/accuracy"]
        == 0
    )


@pytest.mark.parametrize("lazy", [False, True])
def test_bytes_of_tokens_are_right_one_by_one(lazy):
    logits = table(Pairs.vocabulary)
    logits[:, 256] = 9  # `ab` is always thought likeliest
    found = robustness(loaded(Table(logits, lazy=lazy), Pairs()), [b"ababx" * 4, b"abba"], kinds=())
    assert found["perturbed/none/0/accuracy"] == (4 * 4 + 2 + 1) / 24  # the last: an `a` alone


def test_noise_is_scored_over_its_own_bytes_and_tokens():
    logits = table(Pairs.vocabulary)
    logits[:, 256] = 9
    model = loaded(Table(logits), Pairs())
    (noisy,) = (perturb(b"ab" * 30, "delete", 0.4, seed=1),)
    found = robustness(model, [b"ab" * 30], kinds=("delete",), rates=(0.4,), seed=1)
    alone = robustness(model, [noisy], kinds=())
    assert found["perturbed/delete/0.4/accuracy"] == alone["perturbed/none/0/accuracy"]
    assert found["perturbed/delete/0.4/bpb"] == alone["perturbed/none/0/bpb"]
    right = noisy.count(b"a") + noisy.count(b"ab")  # each `a`, and a `b` within a token
    assert alone["perturbed/none/0/accuracy"] == right / len(noisy)


def test_bits_are_those_of_evaluation():
    family = FAMILIES["spacebyte"]
    config = ExperimentConfig(model=family, data=DataConfig(sequence_length=LENGTH))
    model = LoadedModel(SavedModel(config, 7, *split_model(family), {}))
    documents = ["Some words, a naïve 日本語; and more".encode(), b"\xff\x00x"]
    found = robustness(model, iter(documents), kinds=("replace",), rates=(0.2,), seed=5)
    assert found["perturbed/none/0/bpb"] == pytest.approx(model.bits_per_byte(documents), rel=1e-6)
    noisy = [perturb(text, "replace", 0.2, seed=5, document=i) for i, text in enumerate(documents)]
    assert noisy != documents
    assert found["perturbed/replace/0.2/bpb"] == pytest.approx(model.bits_per_byte(noisy), rel=1e-6)


def test_max_bytes_ends_after_a_whole_document(constant):
    documents = [b"\0" * 5, b"\0" * 5, b"x" * 90]
    assert robustness(constant, documents, kinds=(), max_bytes=6)["perturbed/none/0/accuracy"] == 1


def test_text_that_noise_leaves_nothing_of_and_bad_arguments(constant):
    with pytest.raises(UserError, match="delete at rate 1 leaves no bytes"):
        robustness(constant, [b"text"], kinds=("delete",), rates=(1,))
    with pytest.raises(UserError, match="no bytes"):
        robustness(constant, [b""])
    with pytest.raises(UserError, match="kinds"):
        Robustness(kinds=("upper",))
    model = SimpleNamespace(has_encoder=False)
    with pytest.raises(UserError, match="between 0 and 1"):
        evaluate(model, b"text", [Robustness(kinds=("case",), rates=(2,))])


TEXTS = (b"a", b"b", b"ab", b"abc", b"abd", b"", b"b")
"""Two ids of equal bytes, and one of none."""


def guesses(probabilities) -> NextBytes:
    vocabulary = Vocabulary(len(TEXTS))
    assert len(probabilities) == vocabulary.outputs
    return NextBytes(SimpleNamespace(token_bytes=TEXTS, vocabulary=vocabulary))


def right(probabilities, token: bytes) -> int:
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(probabilities, np.float32))
    return guesses(probabilities).right(logits, TEXTS.index(token))


def test_a_byte_has_the_mass_of_all_tokens_that_go_on_with_it():
    #                a    b    ab   abc  abd  -    b    END
    probabilities = [0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2]
    assert right(probabilities, b"a") == 1  # 0.4 of four tokens, against 0.3 of two
    assert right(probabilities, b"b") == 0
    assert right(probabilities, b"ab") == 2  # within a token all that go on do so with b
    assert right([0.1, 0.3, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2], b"abd") == 2  # not its first byte
    assert right([0.0, 0.0, 0.0, 0.6, 0.4, 0.0, 0.0, 0.0], b"abd") == 2  # c is likelier than d
    assert right([0.0, 0.0, 0.0, 0.6, 0.4, 0.0, 0.0, 0.0], b"abc") == 3


def test_ids_without_bytes_are_no_guess_and_the_end_is_a_wrong_one():
    assert right([0.3, 0.1, 0.0, 0.0, 0.0, 0.5, 0.0, 0.1], b"a") == 1
    assert right([0.3, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6], b"a") == 0


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_count_over_the_vocabulary(seed):
    logits = np.random.default_rng(seed).normal(size=len(TEXTS) + 1).astype(np.float32)
    for token in (0, 1, 2, 3, 4, 6):
        text, expected = TEXTS[token], 0
        for depth in range(len(text)):
            mass = dict.fromkeys(range(256), 0.0)
            for index, other in enumerate(TEXTS):
                if len(other) > depth and other[:depth] == text[:depth]:
                    mass[other[depth]] += float(np.exp(logits[index]))
            best = max(mass, key=lambda byte: mass[byte])
            ended = depth == 0 and float(np.exp(logits[-1])) > mass[best]
            expected += best == text[depth] and not ended
        assert guesses(range(len(TEXTS) + 1)).right(logits, token) == expected


def test_a_token_that_is_very_unlikely_still_has_a_likeliest_byte():
    logits = np.array([0, 0, -300, -201, -200, 0, 0, 0], np.float32)
    assert guesses(logits).right(logits, 4) == 2  # b, the only way on, and d; not a
