"""What `transformers` makes of the same weights; needs the extra `torch`."""

import copy
import functools

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import bytelm
from bytelm.core.vocabulary import BYTES, END, PAD, START
from bytelm.models import Batch
from bytelm.models.encoder_decoder import T5_IDS
from bytelm.training.checkpoints.checkpoint import load_model
from bytelm.training.conversion import from_hf, to_hf
from tests.models import tiny_t5
from tests.models.tiny_t5 import CONFIG, WEIGHTS, write_folder

INPUTS = [b"an input", bytes(range(60, 100)), b"\xff\x00x"]
MOST = 24
"""Most bytes of a target."""


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def theirs(torch, transformers):
    """A random T5 of ByT5's kind, with a head of its own that ends some targets early."""
    known = ("architectures", "model_type", "tokenizer_class")
    sizes = {name: value for name, value in tiny_t5.BYT5.items() if name not in known}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(**sizes, decoder_start_token_id=0)
        )
        model.lm_head.weight = torch.nn.Parameter(torch.randn(384, sizes["d_model"]) * 0.5)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor += 0.2 * torch.randn_like(tensor)
            model.lm_head.weight[1] *= 3
    return model.eval()


@pytest.fixture(scope="module")
def saved(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def converted(saved, tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "run"
    from_hf(str(saved), path)
    return path


def symbols():
    """Rows of input symbols, padded, and of what a decoder reads."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, BYTES, (4, 20)).astype(np.int32)
    for row, length in zip(inputs, (20, 11, 5, 1), strict=True):
        row[length - 1] = END
        row[length:] = PAD
    ids = rng.integers(0, END + 1, (4, 9)).astype(np.int32)
    ids[:, 0] = START
    ids[2, 6:] = PAD
    return inputs, ids


def our_logits(run):
    """Logits `[B, T, 384]` in the order of our symbols."""
    saved = load_model(run)
    inputs, ids = symbols()
    model = nnx.merge(saved.graphdef, saved.params)
    return np.asarray(model(Batch(ids, ids, np.ones_like(ids), inputs=inputs)).logits)


def their_logits(torch, model):
    inputs, ids = symbols()
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(T5_IDS[inputs]),
            attention_mask=torch.tensor(inputs != PAD).long(),
            decoder_input_ids=torch.tensor(T5_IDS[ids]),
        ).logits
    return logits.numpy()[..., T5_IDS]


def test_logits_are_those_of_transformers(torch, theirs, converted):
    ours, wanted = our_logits(converted), their_logits(torch, theirs)
    assert wanted.std() > 0.5
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def their_targets(torch, model, **options):
    """What `transformers` generates for each input, and scores of a beam search."""
    length = 1 + max(map(len, INPUTS))
    ids = np.full((len(INPUTS), length), PAD)
    for row, text in zip(ids, INPUTS, strict=True):
        row[: len(text) + 1] = [*text, END]
    found = model.generate(
        input_ids=torch.tensor(T5_IDS[ids]),
        attention_mask=torch.tensor(ids != PAD).long(),
        max_new_tokens=MOST,
        do_sample=False,
        # What is no symbol of ours is never chosen.
        suppress_tokens=[0, 2, *range(259, 384)],
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    texts = [bytes(i - 3 for i in row if 3 <= i < 259) for row in found.sequences.tolist()]
    return texts, getattr(found, "sequences_scores", None)


def test_greedy_targets_are_those_of_transformers(torch, theirs, converted):
    wanted, _ = their_targets(torch, theirs, num_beams=1)
    assert len(set(map(len, wanted))) > 1 and len(set(wanted)) == len(wanted)
    assert bytelm.load(converted).transducer.greedy(INPUTS, max_bytes=MOST) == wanted
    # One at a time: the length of the others' padding changes nothing.
    for text, target in zip(INPUTS, wanted, strict=True):
        assert bytelm.load(converted).generate([text], max_bytes=MOST, temperature=0) == [target]


def log_probability(torch, model, text, target):
    """Of a target and, if it is not cut short, its end; over its length."""
    wanted = [*target, END][:MOST]
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(T5_IDS[[*text, END]])[None],
            decoder_input_ids=torch.tensor(T5_IDS[[START, *wanted[:-1]]])[None],
        ).logits[0]
    nats = torch.log_softmax(logits, dim=-1)
    return float(nats[torch.arange(len(wanted)), torch.tensor(T5_IDS[wanted])].mean())


def test_beam_search_finds_what_transformers_finds(torch, theirs, converted):
    ours = bytelm.load(converted).generate(INPUTS, max_bytes=MOST, beams=4)
    score = functools.partial(log_probability, torch, theirs)
    wanted, scores = their_targets(
        torch, theirs, num_beams=4, early_stopping=False, length_penalty=1.0
    )
    found = [score(*pair) for pair in zip(INPUTS, ours, strict=True)]
    np.testing.assert_allclose(found, scores, atol=1e-4)
    assert ours == wanted
    assert len(ours[0]) < MOST and len(ours[1]) == MOST  # one that ends, one that is cut short


def test_a_file_of_pytorch(torch, theirs, saved, tmp_path, run, converted):
    source = tmp_path / "hf"
    source.mkdir()
    (source / CONFIG).write_bytes((saved / CONFIG).read_bytes())
    torch.save(theirs.state_dict(), source / "pytorch_model.bin")
    from_hf(str(source), run)
    np.testing.assert_array_equal(our_logits(run), our_logits(converted))


def test_bfloat16(torch, theirs, saved, tmp_path, run):
    source = tmp_path / "hf"
    copy.deepcopy(theirs).to(torch.bfloat16).save_pretrained(source)
    from_hf(str(source), run)
    found = np.asarray(load_model(run).params["embedding"]["embedding"])
    wanted = theirs.shared.weight.detach().bfloat16().float().numpy()[T5_IDS]
    np.testing.assert_array_equal(found, wanted)


def test_transformers_loads_what_was_trained_here(torch, transformers, saved, converted, tmp_path):
    back = tmp_path / "back"
    to_hf(converted, back)
    tiny_t5.assert_same(load_file(back / WEIGHTS), load_file(saved / WEIGHTS))
    model = transformers.T5ForConditionalGeneration.from_pretrained(back, local_files_only=True)
    np.testing.assert_allclose(their_logits(torch, model), our_logits(converted), atol=1e-4)
    assert model.generation_config.decoder_start_token_id == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(back, local_files_only=True)
    assert tokenizer("aé")["input_ids"] == [ord("a") + 3, 0xC3 + 3, 0xA9 + 3, 1]
    auto = transformers.AutoModelForSeq2SeqLM.from_pretrained(back, local_files_only=True)
    np.testing.assert_array_equal(their_logits(torch, auto), their_logits(torch, model))


def test_transformers_takes_an_mrt5_for_a_t5(torch, transformers, saved, tmp_path, run):
    weights = load_file(saved / WEIGHTS)
    # A gate that is always open changes nothing.
    weights[f"{tiny_t5.GATE}.layer_norm.weight"] = np.zeros(16, np.float32)
    weights[f"{tiny_t5.GATE}.feed_forward.weight"] = np.zeros((1, 16), np.float32)
    weights[f"{tiny_t5.GATE}.feed_forward.bias"] = np.full(1, 100, np.float32)
    mrt5 = {**tiny_t5.MRT5, "use_softmax1": False}
    from_hf(str(write_folder(tmp_path / "hf", mrt5, weights)), run)
    back = tmp_path / "back"
    with pytest.warns(UserWarning, match="no delete gate"):
        to_hf(run, back)
    model = transformers.T5ForConditionalGeneration.from_pretrained(back, local_files_only=True)
    np.testing.assert_allclose(their_logits(torch, model), our_logits(run), atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(back, local_files_only=True)
    assert tokenizer("a")["input_ids"] == [ord("a") + 3, 1]
