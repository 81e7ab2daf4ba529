"""A Transformer of tokens, through training, evaluation and generation."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import bytelm
from bytelm.core.errors import UserError
from bytelm.data.open_data import OpenData
from bytelm.data.validation import ValidationBatches
from bytelm.evaluation import evaluate
from bytelm.evaluation.report import print_report
from bytelm.inference.generation import Generator
from bytelm.inference.sampling import Sampling
from bytelm.inference.scoring import Scorer, score_documents
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.experiment import ExperimentConfig, TrainConfig
from bytelm.training.loop import train
from bytelm.training.step import StepSetup, eval_step

TEXTS = [b"the text of the text", b"", b"\xff\x00 the \xe2\x96\x81\r\n", "время 日本".encode() * 9]


@pytest.fixture(scope="module")
def experiment(corpus, trained, tmp_path_factory) -> ExperimentConfig:
    path = tmp_path_factory.mktemp("tokenizer") / "bpe.json"
    path.write_bytes(trained["bpe"].content)
    return ExperimentConfig(
        model=TransformerConfig(width=16, depth=1, head_width=8, vocabulary=trained["bpe"].size),
        data=dataclasses.replace(
            corpus,
            source=dataclasses.replace(corpus.source, held_out=0.2),
            task=dataclasses.replace(corpus.task, tokenizer=str(path)),
            sequence_length=16,
            batch_size=4,
        ),
        mesh=MeshConfig(data=1),
        train=TrainConfig(steps=4, log_every=2, validation_rows=4, validate_every=2),
    )


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run") / "run"
    assert train(experiment, run_dir).step == 4
    return run_dir


@pytest.fixture(scope="module")
def random_model(trained):
    """A model with random weights, in its parts, for the tokens of each tokenizer."""

    def build(kind):
        tokenizer = trained[kind]
        config = TransformerConfig(width=16, depth=1, head_width=8, vocabulary=tokenizer.size)
        graphdef, params = nnx.split(config.build(nnx.Rngs(0)))
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: jax.device_put(rng.normal(0, 0.3, leaf.shape).astype(np.float32)), params
        )
        return graphdef, params, tokenizer

    return build


def logits_after(graphdef, params):
    """ids -> logits after each of them, by one call of a compiled function."""

    @jax.jit
    def read(ids, length):
        model = nnx.merge(graphdef, params)
        return model.extend(ids, model.init_state(1, 256), length)[0][0]

    def logits(ids):
        row = np.zeros((1, 256), np.int32)
        row[0, : len(ids)] = ids
        return np.asarray(read(row, np.array([len(ids)])))[: len(ids)]

    return logits


@pytest.mark.parametrize("kind", ["bpe", "superbpe", "unigram"])
def test_every_byte_and_end_is_scored_once(random_model, kind):
    graphdef, params, tokenizer = random_model(kind)

    def scores(length, stride, batch_size):
        return score_documents(
            Scorer(graphdef, params),
            TEXTS,
            sequence_length=length,
            stride=stride,
            batch_size=batch_size,
            tokenizer=tokenizer,
        )

    whole = scores(128, None, 2)
    assert whole.bytes.tolist() == [len(text) for text in TEXTS]
    assert whole.symbols.tolist() == [len(tokenizer.encode(text)) for text in TEXTS]
    again = scores(128, 3, 5)
    np.testing.assert_allclose(again.byte_nats, whole.byte_nats, rtol=1e-5)
    np.testing.assert_allclose(again.end_nats, whole.end_nats, rtol=1e-5)

    # One document at a time, by the definition.
    after, vocabulary = logits_after(graphdef, params), tokenizer.vocabulary
    for text, nats, end_nats in zip(TEXTS, whole.byte_nats, whole.end_nats, strict=True):
        ids = [vocabulary.start, *tokenizer.encode(text)]
        logs = np.asarray(jax.nn.log_softmax(after(ids)))
        wanted = -sum(logs[at, symbol] for at, symbol in enumerate(ids[1:]))
        assert nats == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert end_nats == pytest.approx(-logs[-1, vocabulary.end], rel=1e-4)


def test_a_model_that_knows_nothing_has_the_bits_of_its_tokens(trained):
    tokenizer = trained["bpe"]
    config = TransformerConfig(width=16, depth=1, head_width=8, vocabulary=tokenizer.size)
    scorer = Scorer(*nnx.split(config.build(nnx.Rngs(0))))
    scores = score_documents(scorer, TEXTS, sequence_length=32, tokenizer=tokenizer)
    bits = math.log2(tokenizer.vocabulary.outputs)
    np.testing.assert_allclose(scores.bits(), scores.symbols * bits, rtol=1e-5)
    size = sum(map(len, TEXTS))
    assert scores.bits_per_byte() == pytest.approx(scores.symbols.sum() * bits / size, rel=1e-5)


def test_the_sums_of_training_are_of_bytes(experiment):
    batch = next(iter(ValidationBatches(OpenData(experiment.data))))
    graphdef, params = nnx.split(experiment.model.build(nnx.Rngs(0)))
    setup = StepSetup(graphdef, optax.identity(), experiment.model.symbols, {})
    sums = eval_step(setup, params, batch)
    end = experiment.model.symbols.end
    tokens = np.count_nonzero((batch.targets >= 0) & (batch.targets < end))
    assert sums.bytes == batch.byte_counts.sum() > tokens
    assert sums.symbols == tokens + np.count_nonzero(batch.targets == end)
    nats = math.log(experiment.model.symbols.outputs)
    assert sums.measure.total == pytest.approx(tokens * nats, rel=1e-5)


def test_a_run_carries_its_tokenizer(run, experiment, trained, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    loaded = bytelm.load(copy)
    assert loaded.tokenizer.digest == trained["bpe"].digest
    lines = (run / "metrics.jsonl").read_text().splitlines()
    validation = [json.loads(line).get("validation_bpb") for line in lines]
    assert 0 < [bits for bits in validation if bits][-1] < 9
    figures = evaluate(loaded, TEXTS).figures
    assert figures["bpb"].value == pytest.approx(loaded.bits_per_byte(TEXTS))
    assert figures["bytes_per_token"].value > 1


def test_the_report_says_that_it_is_an_upper_bound(run, capsys):
    print_report(evaluate(bytelm.load(run), TEXTS))
    shown = " ".join(capsys.readouterr().out.split())
    assert "\u2264" in shown and "upper bound" in shown and "bytes_per_token" in shown


@pytest.mark.parametrize("original", ["moved", "changed", "the copy"])
def test_a_run_goes_on_with_its_own_copy(run, experiment, trained, tmp_path, original):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = tmp_path / "bpe.json"
    (copy / "config.json").write_text(
        (copy / "config.json").read_text().replace(experiment.data.task.tokenizer, str(path))
    )
    if original == "changed":
        path.write_bytes(trained["superbpe"].content)
    elif original == "the copy":
        path = copy / "tokenizer.json"
    config = dataclasses.replace(
        experiment,
        train=dataclasses.replace(experiment.train, steps=5),
        data=dataclasses.replace(
            experiment.data, task=dataclasses.replace(experiment.data.task, tokenizer=str(path))
        ),
    )
    assert train(config, copy, resume=True, allow_config_change=True).step == 5
    assert json.loads((copy / "config.json").read_text())["data"]["task"]["tokenizer"] == str(path)
    assert bytelm.load(copy).tokenizer.digest == trained["bpe"].digest


def test_another_tokenizer_is_refused_on_resuming(run, experiment, trained, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    other = tmp_path / "other.json"
    other.write_bytes(trained["superbpe"].content)
    data = dataclasses.replace(
        experiment.data, task=dataclasses.replace(experiment.data.task, tokenizer=str(other))
    )
    with pytest.raises(UserError, match="not the tokenizer that the run was started with"):
        train(
            dataclasses.replace(experiment, data=data),
            copy,
            resume=True,
            allow_config_change=True,
        )


def test_a_damaged_copy_is_not_believed(run, experiment, trained, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "tokenizer.json").write_bytes(trained["superbpe"].content)
    with pytest.raises(UserError, match=r"\.json is damaged: it is not the tokenizer that"):
        train(experiment, copy, resume=True)
    with pytest.raises(UserError, match="is damaged"):
        bytelm.load(copy)


@pytest.mark.parametrize(
    ("vocabulary", "tokenizer", "message"),
    [
        (256, True, "give --model.vocabulary {size}"),
        (300 - 1, True, "the text is in {size} tokens"),
        (400, False, "name its tokenizer with --data.tokenizer, or give --model.vocabulary 256"),
    ],
)
def test_a_model_and_a_tokenizer_that_do_not_match(
    experiment, trained, tmp_path, vocabulary, tokenizer, message
):
    config = dataclasses.replace(
        experiment,
        model=dataclasses.replace(experiment.model, vocabulary=vocabulary),
        data=experiment.data
        if tokenizer
        else dataclasses.replace(
            experiment.data, task=dataclasses.replace(experiment.data.task, tokenizer=None)
        ),
    )
    with pytest.raises(UserError, match=message.format(size=trained["bpe"].size)):
        train(config, tmp_path / "run")


def test_other_families_are_of_bytes_alone(experiment, tmp_path):
    from bytelm.models.spacebyte import SpaceByteConfig

    config = dataclasses.replace(experiment, model=SpaceByteConfig())
    with pytest.raises(UserError, match="spacebyte reads bytes only"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("sizes", [{"prefill": 16, "chunk": 8}, {"prefill": 3, "chunk": 1}])
def test_generation_is_of_whole_tokens_up_to_the_last_byte(random_model, sizes):
    graphdef, params, tokenizer = random_model("bpe")
    prompts = [b"the text", b"", b"\xff", b"of the text"]
    generator = Generator(graphdef, params, tokenizer=tokenizer, **sizes)
    texts = generator.generate(prompts, max_bytes=40, seed=3)
    assert all(len(text) <= 40 for text in texts)
    assert any(len(text) == 40 for text in texts)
    shorter = generator.generate(prompts, max_bytes=9, seed=3)
    assert [text[:9] for text in texts] == shorter
    reference = Generator(graphdef, params, tokenizer=tokenizer)
    assert texts == reference.generate(prompts, max_bytes=40, seed=3)


def test_greedy_generation_takes_the_likeliest_token(random_model):
    graphdef, params, tokenizer = random_model("bpe")
    text = Generator(graphdef, params, tokenizer=tokenizer).generate(
        [b"of the"], max_bytes=20, sampling=Sampling(temperature=0)
    )[0]
    after = logits_after(graphdef, params)
    ids, made = tokenizer.encode(b"of the").tolist(), b""
    while len(made) < 20:
        ids.append(int(after([tokenizer.vocabulary.start, *ids])[-1].argmax()))
        if ids[-1] == tokenizer.vocabulary.end:
            break
        made += tokenizer.token_bytes[ids[-1]]
    assert text == made[:20]


def test_a_stop_string_may_lie_across_tokens(random_model):
    graphdef, params, tokenizer = random_model("bpe")
    generator = Generator(graphdef, params, tokenizer=tokenizer)
    whole = generator.generate([b"of"], max_bytes=40, seed=1)[0]
    stop = whole[5:9]
    found = generator.generate([b"of"], max_bytes=40, seed=1, stop=[stop])[0]
    assert found == whole[: whole.find(stop)]


def test_probability_of_a_continuation_and_the_token_across_its_beginning(run):
    model = bytelm.load(run)
    tokens = model.tokenizer.encode(b"of the text")
    cut = len(model.tokenizer.decode(tokens[:1]))
    context, rest = b"of the text"[:cut], b"of the text"[cut:]
    nats = model.nats(b"of the text")[0]
    assert len(nats) == len(tokens)
    assert model.log_probability(context, rest)[0] == pytest.approx(-nats[1:].sum(), rel=1e-5)
    with pytest.warns(UserWarning, match="a token begins in a context"):
        (log_p,) = model.log_probability(context[:-1], context[-1:] + rest)
    assert log_p == pytest.approx(-nats.sum(), rel=1e-5)
    ends = [bytes([byte]) for byte in range(256)]
    logs = [*model.log_probability(b"of", ends, covers=64)]
    assert 0.5 < np.exp(logs).sum() <= 1 + 1e-4  # and the end of the text
