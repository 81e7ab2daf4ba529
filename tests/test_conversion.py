"""Conversion from and to Hugging Face's folders, and what `transformers` makes of the same."""

import copy
import functools
import json
import sys
import types

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import bytelm
from bytelm.cli import main
from bytelm.config import ExperimentConfig, load_json
from bytelm.conversion import from_hf, to_hf
from bytelm.errors import UserError
from bytelm.models import Batch
from bytelm.models.encoder_decoder import T5_IDS
from bytelm.models.t5_weights import config_from_t5, from_t5
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoint import load_model, save_model
from bytelm.vocabulary import BYTES, END, PAD, START
from tests.models import tiny_t5

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_folder(path, saved=tiny_t5.BYT5, weights=None):
    """A folder as `save_pretrained` writes it."""
    path.mkdir()
    (path / CONFIG).write_text(json.dumps(saved))
    save_file(tiny_t5.weights(saved) if weights is None else weights, path / WEIGHTS)
    return path


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "hf")


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def leftovers(path):
    """What a conversion to `path` that failed has left beside it."""
    return [found for found in path.parent.iterdir() if found.name.startswith(path.name)]


def refused(source, run):
    with pytest.raises(UserError) as error:
        from_hf(str(source), run)
    assert leftovers(run) == []
    return str(error.value)


@pytest.mark.parametrize("family", tiny_t5.CASES)
def test_there_and_back_gives_the_same_bits(family, tmp_path, run):
    saved = tiny_t5.CASES[family]
    source = write_folder(tmp_path / "hf", saved)
    from_hf(str(source), run)
    loaded = load_model(run)
    weights = load_file(source / WEIGHTS)
    assert loaded.step == 0 and loaded.provenance["converted_from"] == str(source)
    assert loaded.config.model == config_from_t5(saved, weights)
    assert (loaded.config.data.task, loaded.config.data.sequence_length) == (
        "span_corruption",
        1024,
    )

    back = tmp_path / "back"
    if family == "mrt5":
        with pytest.warns(UserWarning, match="no delete gate"):
            to_hf(run, back)
    else:
        to_hf(run, back)
    tiny_t5.assert_same(load_file(back / WEIGHTS), weights)
    again = json.loads((back / CONFIG).read_text())
    assert {name: again[name] for name in saved} == saved
    assert leftovers(back) == [back]


def test_a_converted_run_writes_targets(tmp_path, run):
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in tiny_t5.shapes(tiny_t5.MRT5).items()
    }
    from_hf(str(write_folder(tmp_path / "hf", tiny_t5.MRT5, weights)), run)
    model = bytelm.load(run)
    assert model.config == load_json(run / CONFIG)
    texts = model.generate([b"in", b"another input"], max_bytes=3, temperature=0)
    assert len(texts) == 2 and all(len(text) <= 3 for text in texts)


def test_shards(folder, run):
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = {
        name: f"model-0000{1 + number % 2}-of-00002.safetensors"
        for number, name in enumerate(weights)
    }
    for file in set(files.values()):
        save_file({name: weights[name] for name in weights if files[name] == file}, folder / file)
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    from_hf(str(folder), run)
    wanted = from_t5(weights, config_from_t5(tiny_t5.BYT5, weights))
    found = load_model(run).params["head"]["kernel"]
    np.testing.assert_array_equal(found, wanted["head"]["kernel"])


def test_a_missing_shard(folder, run):
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"shared.weight": "lost"}}')
    assert "lost cannot be read" in refused(folder, run)


def test_an_index_of_another_format(folder, run):
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text("{}")
    assert "is no index of shards" in refused(folder, run)


def test_a_folder_without_weights(folder, run):
    (folder / WEIGHTS).unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refused(folder, run)


def test_a_folder_without_config(folder, run):
    (folder / CONFIG).unlink()
    assert "config.json cannot be read" in refused(folder, run)


@pytest.mark.parametrize(
    ("content", "said"), [("{", "cannot be read"), ("[]", "holds no JSON object")]
)
def test_a_broken_config(content, said, folder, run):
    (folder / CONFIG).write_text(content)
    assert said in refused(folder, run)


def test_a_torn_file(folder, run):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    assert f"{folder / WEIGHTS} cannot be read" in refused(folder, run)


def test_another_architecture(folder, run):
    (folder / CONFIG).write_text(json.dumps({**tiny_t5.BYT5, "vocab_size": 32128}))
    assert "vocab_size is 32128 and not 384" in refused(folder, run)


def test_tensors_that_are_not_those_of_the_config(folder, run):
    (folder / CONFIG).write_text(json.dumps({**tiny_t5.BYT5, "num_layers": 4}))
    assert "missing encoder.block.3.layer.0.layer_norm.weight" in refused(folder, run)


def test_a_file_of_pytorch_without_pytorch(folder, run, monkeypatch):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch is not installed" in refused(folder, run)


def test_neither_a_folder_nor_a_name(tmp_path, run):
    assert "there is no folder" in refused(tmp_path / "nothing", run)


def test_the_hub_without_its_client(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = refused("google/byt5-small", run)
    assert "there is no folder google/byt5-small" in message and "bytelm[hub]" in message


def use_hub(monkeypatch, download):
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


def test_the_hub_out_of_reach(run, monkeypatch):
    def download(name, allow_patterns):
        raise ConnectionError("no route\nto the hub")

    use_hub(monkeypatch, download)
    message = refused("google/byt5-small", run)
    assert message.endswith("could not be fetched from the Hugging Face hub: no route.")


def test_a_model_on_the_hub(folder, run, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, *allow_patterns))
        return str(folder)

    use_hub(monkeypatch, download)
    from_hf("google/byt5-small", run)
    assert asked == [("google/byt5-small", CONFIG, "model*.safetensors*")]
    assert load_model(run).provenance["converted_from"] == "google/byt5-small"


def test_a_folder_that_holds_files_is_left_alone(folder, run, tmp_path):
    from_hf(str(folder), run)
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError, match="is there already"):
        from_hf(str(folder), run)
    with pytest.raises(UserError, match="is there already"):
        to_hf(run, folder)
    with pytest.raises(UserError, match="is there already"):
        from_hf(str(folder), folder / CONFIG)
    assert sorted(run.rglob("*")) == before
    assert leftovers(folder) == [folder]


def test_an_empty_folder_may_be_written(folder, run):
    run.mkdir()
    from_hf(str(folder), run)
    assert load_model(run).step == 0


def test_another_family_has_no_place_in_the_format(run, tmp_path):
    model = TransformerConfig(width=16, depth=1, head_width=8)
    params = nnx.to_pure_dict(nnx.split(model.build(nnx.Rngs(0)))[1])
    save_model(run, ExperimentConfig(model=model), params, {})
    with pytest.raises(UserError, match="is of the family transformer"):
        to_hf(run, tmp_path / "back")
    assert leftovers(tmp_path / "back") == []


def test_a_step_that_is_not_there(folder, run, tmp_path):
    from_hf(str(folder), run)
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        to_hf(run, tmp_path / "back", step=3)


def test_the_command(folder, run, tmp_path, capsys):
    assert main(["convert", "--from-hf", str(folder), "--output", str(run)]) == 0
    back = tmp_path / "back"
    command = ["convert", "--to-hf", str(back), "--checkpoint", str(run), "--step", "0"]
    assert main(command) == 0
    assert capsys.readouterr().out.count("done") == 2
    tiny_t5.assert_same(load_file(back / WEIGHTS), load_file(folder / WEIGHTS))


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--from-hf x",
        "--to-hf x",
        "--from-hf x --output y --to-hf z",
        "--from-hf x --output y --step 1",
        "--from-hf x --checkpoint y",
    ],
)
def test_the_command_with_half_of_what_it_needs(arguments, capsys):
    assert main(["convert", *arguments.split()]) == 2
    assert capsys.readouterr().err.startswith("error: say what to convert: `--from-hf")


# What follows needs `transformers`, of the extra `torch`.

INPUTS = [b"an input", bytes(range(60, 100)), b"\xff\x00x"]
MOST = 24
"""Most bytes of a target."""


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


def test_code_in_a_file_of_pytorch_is_not_run(torch, folder, run):
    (folder / WEIGHTS).unlink()
    torch.save({"shared.weight": print}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin cannot be read" in refused(folder, run)


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
    # A gate that is open whatever it sees changes nothing.
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
