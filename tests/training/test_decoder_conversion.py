"""Published decoders of tokens as runs: scored, summed over tokenisations, and written back."""

import json

import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx
from safetensors.numpy import load_file, save_file

import bytelm
from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.data.carried import carry
from bytelm.data.config import DataConfig, NextByte
from bytelm.models.transformer import TransformerConfig
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.checkpoints.checkpoint import load_model, save_model
from bytelm.training.conversion import from_hf, to_hf
from bytelm.training.experiment import ExperimentConfig
from tests.models import tiny_decoder
from tests.models.tiny_decoder import CASES, CONFIG, END, TOKENIZER, TOKENS, WEIGHTS
from tests.models.tiny_t5 import assert_same

SAVED = CASES["llama, tied, spare rows"]
TEXTS = [b"the other\xff", "cafe\u0301 the".encode(), b""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_decoder.write_folder(tmp_path_factory.mktemp("theirs") / "hf", SAVED)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "run"
    from_hf(str(folder), path)
    return path


def test_a_published_model_is_scored(folder, run):
    model = bytelm.load(run)
    assert (model.context, model.tokenizer.size) == (48, TOKENS)
    assert (model.config.model.vocabulary, model.config.model.spare_rows) == (TOKENS, 7)
    scores = model.score_documents(TEXTS)
    tensors = load_file(folder / WEIGHTS)
    for text, nats, end_nats in zip(TEXTS, scores.byte_nats, scores.end_nats, strict=True):
        ids = [SAVED["bos_token_id"], *model.tokenizer.encode(text)]
        wanted = tiny_decoder.log_probabilities(SAVED, tensors, ids)
        assert nats == pytest.approx(-sum(wanted[np.arange(len(ids) - 1), ids[1:]]), abs=1e-4)
        assert end_nats == pytest.approx(-wanted[-1, END], abs=1e-4)


def test_all_tokenisations_of_a_text_are_summed(folder, run):
    model = bytelm.load(run)
    tensors, text = load_file(folder / WEIGHTS), b"the"
    found = model.byte_marginal(covers=None).score([text])
    ways = [[256 + 1], [256, ord("e")], [ord("t"), ord("h"), ord("e")]]

    def nats(tokens):
        ids = [SAVED["bos_token_id"], *tokens]
        wanted = tiny_decoder.log_probabilities(SAVED, tensors, ids)
        return -wanted[np.arange(len(ids)), [*tokens, END]].sum()

    total = found.marginal.byte_nats[0] + found.marginal.end_nats[0]
    assert total == pytest.approx(-np.logaddexp.reduce([-nats(way) for way in ways]), abs=1e-4)
    assert found.canonical.byte_nats[0] + found.canonical.end_nats[0] == pytest.approx(
        nats(ways[0]), abs=1e-4
    )


def test_the_command_scores_bytes(run, tmp_path, capsys):
    (tmp_path / "text.txt").write_bytes(b"the other the")
    options = ["--data.files", str(tmp_path / "text.txt"), "--data.cache-dir", str(tmp_path / "c")]
    report = tmp_path / "report.json"
    options += ["--suite", "bits", "marginal", "--marginal.covers", "4", "--output", str(report)]
    assert main(["eval", "--checkpoint", str(run), *options]) == 0
    assert "marginal_bpb" in report.read_text()
    capsys.readouterr()


def test_there_and_back_gives_the_same_files(folder, run, tmp_path):
    to_hf(run, tmp_path / "back")
    assert_same(load_file(tmp_path / "back" / WEIGHTS), load_file(folder / WEIGHTS))
    assert (tmp_path / "back" / TOKENIZER).read_bytes() == (folder / TOKENIZER).read_bytes()
    again = json.loads((tmp_path / "back" / CONFIG).read_text())
    assert {name: again[name] for name in SAVED} == SAVED
    names = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert (names["bos_token"], names["eos_token"]) == ("<s>", "</s>")


def test_shards(folder, run, tmp_path):
    weights = load_file(folder / WEIGHTS)
    source = tiny_decoder.write_folder(tmp_path / "hf", SAVED)
    (source / WEIGHTS).unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(weights)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in weights if files[name] == file}, source / file)
    (source / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": files}))
    from_hf(str(source), tmp_path / "run")
    found, wanted = load_model(tmp_path / "run").params, load_model(run).params
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_folder_without_a_tokenizer(tmp_path):
    source = tiny_decoder.write_folder(tmp_path / "hf", SAVED)
    (source / TOKENIZER).unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json, which says what the tokens"):
        from_hf(str(source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def save(run, tokenizer=None, **options):
    task = NextByte(tokenizer=tokenizer and tokenizer.path)
    model = TransformerConfig(width=16, depth=1, head_width=8, **options)
    params = nnx.to_pure_dict(nnx.split(model.build(nnx.Rngs(0)))[1])
    run.mkdir()
    carry(run, tokenizer, None)
    save_model(run, ExperimentConfig(model=model, data=DataConfig(task=task)), params, {})


def test_models_of_ours_are_written_with_a_token_for_start_and_end(tmp_path):
    own = Tokenizer("own.json", tiny_decoder.tokenizer_json().encode())
    for name, tokenizer in (("bytes", None), ("tokens", own)):
        size = 256 if tokenizer is None else own.size
        save(tmp_path / name, tokenizer, vocabulary=size)
        to_hf(tmp_path / name, tmp_path / "hf" / name)
        library = tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / name / TOKENIZER))
        assert library.token_to_id("<|endoftext|>") == size
        text = "the caf\u00e9"
        wanted = [*text.encode()] if tokenizer is None else own.encode(text.encode()).tolist()
        assert library.encode(text).ids == [size, *wanted]
        assert library.decode(wanted) == text
        # Read again it is a model of tokens, which are bytes in the first case.
        from_hf(str(tmp_path / "hf" / name), tmp_path / "again" / name)
        found, before = bytelm.load(tmp_path / "again" / name), bytelm.load(tmp_path / name)
        assert found.config.model.start_row == found.config.model.end_row == size
        texts = [text.encode(), b"\xff\x00"]
        scores, wanted = found.score_documents(texts), before.score_documents(texts)
        np.testing.assert_allclose(scores.byte_nats, wanted.byte_nats, rtol=1e-5)
        np.testing.assert_allclose(scores.end_nats, wanted.end_nats, rtol=1e-5)
