"""Conversion from and to the folders of released checkpoints."""

import json
import os
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import bytelm
from bytelm.cli.main import main
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import END, START
from bytelm.data.config import SpanCorruption
from bytelm.models import Batch
from bytelm.models.mamba import MambaConfig
from bytelm.models.released.t5 import T5Format
from bytelm.patching.levels import Symbols
from bytelm.training.checkpoints.checkpoint import load_model, save_model
from bytelm.training.conversion import from_hf, to_hf
from bytelm.training.experiment import ExperimentConfig, load_json
from tests.models import tiny_t5
from tests.models.golden_hnet import official_logits
from tests.models.released import test_lca
from tests.models.tiny_t5 import CONFIG, WEIGHTS, write_folder
from tests.training.checkpoints import torch_writer
from tests.training.checkpoints.torch_writer import write_tensors


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "hf")


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def leftovers(path):
    """Files that a failed conversion to `path` has left next to it."""
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
    assert loaded.config.model == T5Format().read_config(saved, weights)
    assert (loaded.config.data.task, loaded.config.data.sequence_length) == (
        SpanCorruption(),
        1024,
    )

    back = tmp_path / "back"
    if family == "mrt5":
        with pytest.warns(UserWarning, match="without the delete gate"):
            to_hf(run, back)
    else:
        to_hf(run, back)
    tiny_t5.assert_same(load_file(back / WEIGHTS), weights)
    again = json.loads((back / CONFIG).read_text())
    assert {name: again[name] for name in saved} == saved
    # As many targets as a row has in training, and the START before them.
    assert json.loads((back / "generation_config.json").read_text())["max_length"] == 190
    assert leftovers(back) == [back]
    assert (back / WEIGHTS).stat().st_mode == (back / CONFIG).stat().st_mode


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
    wanted = T5Format().read(weights, T5Format().read_config(tiny_t5.BYT5, weights))
    found = load_model(run).params["head"]["kernel"]
    np.testing.assert_array_equal(found, wanted["head"]["kernel"])


def test_a_missing_shard(folder, run):
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"shared.weight": "lost"}}')
    assert "lost cannot be read" in refused(folder, run)


def test_an_index_of_another_format(folder, run):
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text("{}")
    assert "is not an index of shards" in refused(folder, run)


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


@pytest.mark.parametrize("name", ["pytorch_model.bin", "byt5.pt"])
def test_a_file_of_pytorch_without_pytorch(name, folder, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    write_tensors(folder / name, weights)
    from_hf(str(folder), run)
    to_hf(run, run.with_name("back"))
    tiny_t5.assert_same(load_file(run.with_name("back") / WEIGHTS), weights)


def test_several_files_of_pytorch(folder, run):
    (folder / WEIGHTS).unlink()
    for name in "ab":
        write_tensors(folder / f"{name}.pt", {})
    assert "nor pytorch_model.bin, and 2 files *.pt" in refused(folder, run)


def test_a_file_in_place_of_its_folder(folder, run):
    assert "is a file; name the folder that holds it" in refused(folder / WEIGHTS, run)


def test_a_format_that_is_not_known(folder, run):
    (folder / CONFIG).write_text('{"model_type": "bert"}')
    message = refused(folder, run)
    assert "whose model_type is 'bert'" in message and "those of T5, H-Net, BLT, Llama" in message


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
    assert asked == [("google/byt5-small", CONFIG, "tokenizer.json", "model*.safetensors*")]
    assert load_model(run).provenance["converted_from"] == "google/byt5-small"


def test_a_folder_that_holds_files_is_left_alone(folder, run, tmp_path):
    from_hf(str(folder), run)
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError, match="exists and holds files"):
        from_hf(str(folder), run)
    with pytest.raises(UserError, match="exists and holds files"):
        to_hf(run, folder)
    with pytest.raises(UserError, match="exists and holds files"):
        from_hf(str(folder), folder / CONFIG)
    assert sorted(run.rglob("*")) == before
    assert leftovers(folder) == [folder]


def test_an_empty_folder_may_be_written(folder, run):
    run.mkdir()
    from_hf(str(folder), run)
    assert load_model(run).step == 0


def test_another_family_has_no_place_in_the_format(run, tmp_path):
    model = MambaConfig(width=16, layout="m1", head_width=8)
    params = nnx.to_pure_dict(nnx.split(model.build(nnx.Rngs(0)))[1])
    save_model(run, ExperimentConfig(model=model), params, {})
    with pytest.raises(UserError, match="has a model of the family mamba"):
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


def test_code_in_a_file_of_pytorch_is_not_run(folder, run, tmp_path):
    (folder / WEIGHTS).unlink()
    call = torch_writer.call(
        torch_writer.name("os", "mkdir"), torch_writer.value(str(tmp_path / "x"))
    )
    content = torch_writer.dict_of({"shared.weight": call})
    torch_writer.write(folder / "pytorch_model.bin", content, {})
    assert "asks for os.mkdir" in refused(folder, run)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_of_the_tensors(dtype, run, tmp_path):
    weights = {
        name: np.linspace(-2, 2, np.prod(shape), dtype=np.float32).reshape(shape)
        for name, shape in tiny_t5.shapes(tiny_t5.BYT5).items()
    }
    from_hf(str(write_folder(tmp_path / "hf", tiny_t5.BYT5, weights)), run)
    to_hf(run, tmp_path / "back", dtype=dtype)
    found = load_file(tmp_path / "back" / WEIGHTS)
    assert {str(x.dtype) for x in found.values()} == {dtype}
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array.astype(found[name].dtype))


def test_byte_models_of_lca_mbp(tmp_path, run):
    for name, saved, depths in (
        ("flat", test_lca.FLAT, (3,)),
        ("pooled", test_lca.POOLED, (1, 2, 1)),
    ):
        tensors = test_lca.weights(saved, depths)
        from_hf(str(write_folder(tmp_path / name, saved, tensors)), run / name)
        assert load_model(run / name).config.data.sequence_length == 64
    with pytest.raises(UserError, match="family dynamic_pooling, which has no released format"):
        to_hf(run / "pooled", tmp_path / "back")
    # The flat one is a Llama of byte tokens.
    to_hf(run / "flat", tmp_path / "back")
    written = json.loads((tmp_path / "back" / CONFIG).read_text())
    assert (written["model_type"], written["vocab_size"]) == ("llama", 261)
    assert written["bos_token_id"] == written["eos_token_id"] == 256
    back = load_file(tmp_path / "back" / WEIGHTS)["lm_head.weight"]
    theirs = test_lca.weights(test_lca.FLAT, (3,))["head.weight"]
    np.testing.assert_array_equal(back[:257], theirs[[*range(3, 259), 1]])


CHECKPOINTS = [
    pytest.param(folder, id=folder.name)
    for folder in sorted(
        Path(os.environ.get("BYTELM_GOLDEN_DIR", "nowhere"), "hnet").glob("checkpoint_*")
    )
] or [pytest.param(None, marks=pytest.mark.skip(reason="BYTELM_GOLDEN_DIR is not set"))]


@pytest.fixture(params=CHECKPOINTS)
def golden_folder(request):
    return request.param


def test_a_golden_h_net_gives_the_logits_and_boundaries_of_its_authors(golden_folder, run):
    from_hf(str(golden_folder), run)
    with np.load(golden_folder / "logits.npz") as wanted:
        tokens = wanted["in.tokens"]
        ids = np.where(tokens == 254, START, np.where(tokens == 255, END, tokens))
        saved = load_model(run)

        @jax.jit
        def run(params, batch):
            model = nnx.merge(saved.graphdef, params)
            cuts = model.forward(Symbols.of_rows(batch.ids, batch.document_ids))[2]
            return model(batch).logits, cuts

        logits, cuts = jax.device_get(run(saved.params, Batch(ids, ids, np.ones_like(ids))))
        found = official_logits(logits)
        np.testing.assert_allclose(found, wanted["out.logits"], rtol=0, atol=1e-4)
        here = np.ones(ids.shape, bool)
        for stage, cut in enumerate(cuts):
            boundaries = cut.boundaries.hard[here]
            np.testing.assert_array_equal(boundaries, wanted[f"out.s{stage}.boundary_mask"])
            p = cut.boundaries.probabilities[here]
            np.testing.assert_allclose(p, wanted[f"out.s{stage}.boundary_prob"], atol=1e-6)
            here = cut.patches.valid


def test_a_golden_h_net_there_and_back(golden_folder, run, tmp_path):
    from_hf(str(golden_folder), run)
    weights = load_file(golden_folder / WEIGHTS)
    dtype = str(weights["embeddings.weight"].dtype)
    to_hf(run, tmp_path / "back", dtype=dtype)
    found = load_file(tmp_path / "back" / WEIGHTS)
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes(), name
    again = json.loads((tmp_path / "back" / CONFIG).read_text())
    assert again == json.loads((golden_folder / CONFIG).read_text())

    pt = tmp_path / "pt"
    pt.mkdir()
    write_tensors(pt / "hnet.pt", weights)
    (pt / CONFIG).write_bytes((golden_folder / CONFIG).read_bytes())
    from_hf(str(pt), tmp_path / "from_pt")
    other, params = load_model(tmp_path / "from_pt"), load_model(run).params
    assert other.config == load_model(run).config
    jax.tree.map(np.testing.assert_array_equal, other.params, params)
