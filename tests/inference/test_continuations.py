"""Scores of continuations against full forward passes over context and continuation."""

import jax
import numpy as np
import pytest

from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import START, UNSCORED
from bytelm.data.config import DataConfig
from bytelm.inference import continuations
from bytelm.inference.scoring import empty_batch
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.models.compiled import split_model
from tests.models.families import ENCODER_DECODERS, FAMILIES

CONTEXT = 32
SHARED = b"the same start "
PAIRS = [
    (SHARED + b"ab", b"cd"),
    (SHARED + b"ab", b"a longer \xff one"),
    (SHARED + b"ab", b""),
    (SHARED, b"x"),
    (SHARED + b"b", b"\x00"),
    ("", "naïve"),
    ("", "日"),
    (b"another", b" one"),
    (b"w" * 40, b"cut"),
    (b"", b"no part of it fits whole: it is far too long"),
]


def loaded(model, tokenizer=None, split=None, context=CONTEXT):
    config = ExperimentConfig(model=model, data=DataConfig(sequence_length=context))
    saved = SavedModel(config, 7, *(split or split_model(model)), {}, tokenizer=tokenizer)
    return LoadedModel(saved)


def brute_force(model, inputs, targets):
    """Nats of the targets that follow the inputs, and whether all are the likeliest: one pass."""
    symbols = np.append(inputs, targets).astype(np.int32)[-model.context - 1 :]
    batch = empty_batch(1, model.context)
    batch.ids[0, : len(symbols) - 1] = symbols[:-1]
    batch.document_ids[0, : len(symbols) - 1] = 1
    scored = slice(len(symbols) - 1 - len(targets), len(symbols) - 1)
    batch.targets[0, scored] = targets
    nats, best = model.scorer.run(nats_and_best, batch)
    right = (np.asarray(best)[0, scored] == targets).all()
    return np.asarray(nats, np.float64).sum(), bool(right)


def nats_and_best(output, targets):
    return output.nats(targets), output.best


def expected(model, pair):
    """The score of a pair of bytes, in parts if it does not fit."""
    before, after = (text.encode() if isinstance(text, str) else text for text in pair)
    symbols, first = [START, *before, *after], 1 + len(before)
    size = len(symbols) if len(symbols) - 1 <= CONTEXT else CONTEXT // 2
    nats, greedy = 0.0, True
    for at in range(first, len(symbols), size):
        of_part, right = brute_force(model, symbols[:at], symbols[at : at + size])
        nats, greedy = nats + of_part, greedy and right
    return nats, greedy


@pytest.fixture(scope="module", params=["transformer", "hat", "spacebyte", "hnet, attention"])
def model(request):
    return loaded(FAMILIES[request.param])


@pytest.fixture(scope="module")
def scores(model):
    with pytest.warns(UserWarning, match="do not fit into the model's 32 symbols"):
        return dict(model.score_continuations(PAIRS, rows=4))


def test_scores_are_those_of_full_forward_passes(model, scores):
    assert sorted(scores) == list(range(len(PAIRS)))
    for number, pair in enumerate(PAIRS):
        nats, greedy = expected(model, pair)
        assert scores[number].nats == pytest.approx(nats, rel=1e-4, abs=1e-5)
        assert scores[number].is_greedy == greedy
    assert scores[2] == (0.0, True, False)


def test_what_greedy_decoding_writes_is_greedy():
    model = loaded(FAMILIES["transformer, window, grouped and qk-norm"])
    (written,) = model.generate("another", max_bytes=4, temperature=0)
    assert written  # not END at once
    other = written[:-1] + bytes([written[-1] ^ 1])
    scores = dict(model.score_continuations([("another", written), ("another", other)], rows=4))
    assert scores[0].is_greedy and not scores[1].is_greedy


@pytest.mark.filterwarnings("ignore:contexts that do not fit")
def test_a_score_depends_on_its_pair_alone(monkeypatch):
    model = loaded(FAMILIES["spacebyte"])
    read = []
    monkeypatch.setattr(continuations, "SHORTEST_PREFIX", 4)
    monkeypatch.setattr(
        continuations._Reader,
        "_advance",
        lambda self, states, texts, own=continuations._Reader._advance: (
            read.extend(map(len, texts)) or own(self, states, texts)
        ),
    )
    scores = dict(model.score_continuations(PAIRS * 2, rows=4))
    # Each different context is read once, and what three of them share is too.
    texts = [0, 15, 16, 17, 7, CONTEXT - 3, CONTEXT // 2, CONTEXT - 12]
    assert sum(read) == sum(texts) - 2 * len(SHARED)
    for number, pair in enumerate(PAIRS):
        assert scores[number] == scores[number + len(PAIRS)]
        assert scores[number].nats == pytest.approx(expected(model, pair)[0], rel=1e-4, abs=1e-5)
    monkeypatch.setattr(continuations, "PAIRS", 3)
    few = dict(model.score_continuations(PAIRS[:7], rows=4))
    assert few == {number: pytest.approx(scores[number], rel=1e-5) for number in range(7)}


def test_an_encoder_is_refused():
    model = loaded(ENCODER_DECODERS["byt5"])
    with pytest.raises(UserError, match="models targets given inputs"):
        model.score_continuations([("a", "b")])


@pytest.fixture(scope="module")
def tokens(trained):
    """A model of BPE tokens with random weights."""
    config = TransformerConfig(width=16, depth=1, head_width=8, vocabulary=trained["bpe"].size)
    graphdef, params = split_model(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(0, 0.3, leaf.shape).astype(np.float32)), params
    )
    return loaded(config, trained["bpe"], (graphdef, params), 64)


def test_tokens_are_canonical_where_one_ends_at_the_seam(tokens):
    tokenizer = tokens.tokenizer
    text = b"of the text and the texts of"
    ids = tokenizer.encode(text)
    ends = np.cumsum(tokenizer.byte_counts[ids]).tolist()
    inside = next(at for at in range(1, len(text)) if at not in ends)
    seams = [0, ends[0], ends[-2], inside]
    scores = dict(tokens.score_continuations([(text[:at], text[at:]) for at in seams], rows=4))
    start = tokenizer.vocabulary.start
    batch = empty_batch(1, 64, tokenizer.vocabulary)
    batch.ids[0, : len(ids)], batch.targets[0, : len(ids)] = [start, *ids[:-1]], ids
    batch.document_ids[0, : len(ids)] = 1
    nats, best = map(np.asarray, tokens.scorer.run(nats_and_best, batch))
    for number, skipped in enumerate([0, 1, len(ids) - 1]):
        of_tokens = nats[0, skipped : len(ids)].sum()
        greedy = (best[0, skipped : len(ids)] == ids[skipped:]).all()
        assert scores[number] == (pytest.approx(of_tokens, rel=1e-4), greedy, False)
    assert scores[3].by_bytes and (batch.targets[0, len(ids) :] == UNSCORED).all()


def test_tokens_across_the_seam_count_by_their_bytes(tokens):
    ids = tokens.tokenizer.encode(b"of the text")
    cut = tokens.tokenizer.byte_counts[ids][0] - 1
    before, after = b"of the text"[:cut], b"of the text"[cut:]
    (summed,) = dict(tokens.score_continuations([(before, after)])).values()
    exact = tokens.log_probability(before, after, covers=continuations.COVERS)[0]
    assert summed.by_bytes and -summed.nats == pytest.approx(exact, rel=1e-4)
    # On any pair, if asked for; the bytes are a little likelier than their canonical tokens.
    pair = (b"", b"of the text")
    (canonical,), (asked,) = (
        dict(tokens.score_continuations([pair], covers=covers)).values() for covers in (None, 32)
    )
    assert asked.by_bytes and not canonical.by_bytes and asked.nats < canonical.nats
