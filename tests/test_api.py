import dataclasses
import math
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

import bytelm
import bytelm.api
from bytelm.api import LoadedModel
from bytelm.core.errors import UserError
from bytelm.core.texts import text_bytes
from bytelm.data.config import DataConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.mesh import MeshConfig
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from tests.evaluation.test_robustness import Pairs
from tests.models.compiled import split_model
from tests.models.families import ENCODER_DECODERS, FAMILIES

TEXTS = ["naïve", b"\xff\x00", "longer than one window of sixteen", ""]


def saved_model(**changes):
    model = TransformerConfig(width=16, depth=1, head_width=8, **changes)
    graphdef, params = nnx.split(model.build(nnx.Rngs(0)))
    config = ExperimentConfig(model=model, data=DataConfig(sequence_length=16))
    return SavedModel(config, 7, graphdef, nnx.to_pure_dict(params), {})


@pytest.fixture(scope="module")
def saved():
    return saved_model()


@pytest.fixture(scope="module")
def model(saved):
    return LoadedModel(saved)


def test_load_reads_the_checkpoint_asked_for(saved, monkeypatch):
    asked = []

    def load_model(run, step, verify):
        asked.append((str(run), step))
        return saved

    monkeypatch.setattr(bytelm.api, "load_model", load_model)
    model = bytelm.api.load("runs/x", step=7)
    assert asked == [("runs/x", 7)]
    assert model.step == 7
    assert model.config.data.sequence_length == 16


def test_an_untrained_model_scores_log2_257_bits_a_symbol(model):
    nats = model.score(TEXTS)
    np.testing.assert_allclose(nats, [math.log(257)] * 3 + [math.nan], rtol=1e-6)
    assert nats.dtype == np.float64
    assert model.bits_per_byte(TEXTS) == pytest.approx(math.log2(257), rel=1e-6)
    assert model.bits_per_byte(iter(TEXTS), with_end=True) > model.bits_per_byte(TEXTS) + 0.1
    scores = model.score_documents(TEXTS, stride=3)
    assert scores.bytes.tolist() == [6, 2, 33, 0]


def test_a_text_of_characters_stands_for_its_utf8_bytes(model):
    assert model.score_documents(["日本", "\udcff"]).bytes.tolist() == [6, 1]


def test_generate_and_stream_agree(model):
    options = {"max_bytes": 10, "temperature": 0.9, "top_k": 90, "top_p": 0.99, "min_p": 0.1}
    (text,) = model.generate(["a"], seed=1, **options)
    assert isinstance(text, bytes)
    assert 5 < len(text) <= 10
    assert b"".join(model.stream(b"a", seed=1, **options)) == text
    stop = text[3:5].decode(errors="surrogateescape")
    assert model.generate(["a"], seed=1, stop=[stop], **options) == [text[: text.index(text[3:5])]]
    with pytest.raises(UserError, match="top-p"):
        model.generate(["a"], top_p=0.0, max_bytes=2)


def test_going_beyond_the_trained_length_warns_unless_there_is_a_window(model):
    with pytest.warns(UserWarning, match="trained on rows of 16"):
        model.stream("long enough", max_bytes=10)
    LoadedModel(saved_model(window=4)).stream("long enough", max_bytes=10)


def test_one_text_is_one_text_everywhere(model):
    for text in ("naïve", b"na\xff"):
        assert model.score_documents(text).bytes.tolist() == [len(text_bytes(text))]
        assert model.score(text).shape == (1,)
        assert model.bits_per_byte(text) == model.bits_per_byte([text])
        assert model.generate(text, max_bytes=2, seed=1) == model.generate(
            [text], max_bytes=2, seed=1
        )
    (made,) = model.generate("a", max_bytes=9, seed=1)
    assert model.generate("a", max_bytes=9, seed=1, stop=made[3:5]) == [
        made[: made.index(made[3:5])]
    ]
    for wrong in (3, [3], [None], {"a": 1}.items()):
        with pytest.raises(UserError, match="give a str or bytes"):
            model.score(wrong)


def pointers(params):
    """Where arrays are, of those on several devices on the first."""
    return [leaf.addressable_data(0).unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)]


def test_parameters_are_held_once_in_each_form():
    saved = dataclasses.replace(saved_model(vocabulary=257), tokenizer=Pairs())
    model = LoadedModel(saved)
    stored, scoring = pointers(model.params), pointers(model.scorer._params)
    assert stored == scoring == pointers(saved.params)
    other = model.with_context(8)
    assert (model.context, other.context) == (16, 8)
    assert other.scorer is model.scorer
    decoding = pointers(model.byte_marginal(2).params)
    assert pointers(model.byte_marginal(3).params) == decoding
    assert pointers(other.byte_marginal(2).params) == decoding
    assert pointers(other._forms.generator.params) == decoding


def test_texts_are_scored_on_the_mesh_of_the_run_if_there_are_enough_devices(saved):
    def axes(model):
        return dict(model.scorer._mesh.shape)

    def with_mesh_of_run(mesh):
        config = dataclasses.replace(saved.config, mesh=mesh)
        return LoadedModel(dataclasses.replace(saved, config=config))

    model = with_mesh_of_run(MeshConfig(data=1, sequence=4))
    assert axes(model) == {"data": 2, "fsdp": 1, "sequence": 4, "tensor": 1}
    assert axes(model.with_mesh(MeshConfig(fsdp=2))) == {
        "data": 4,
        "fsdp": 2,
        "sequence": 1,
        "tensor": 1,
    }
    assert axes(with_mesh_of_run(MeshConfig(sequence=16)))["data"] == 8
    with pytest.raises(UserError, match="needs 16 devices and there are 8"):
        _ = model.with_mesh(MeshConfig(sequence=16)).scorer
    family = ENCODER_DECODERS["byt5"]
    config = dataclasses.replace(saved.config, model=family)
    with_encoder = LoadedModel(SavedModel(config, 7, *split_model(family), {}))
    with pytest.raises(UserError, match="with an encoder is evaluated on one device"):
        with_encoder.with_mesh(MeshConfig(sequence=2))


def test_whether_a_model_has_patches(model):
    assert not model.has_patches and not model.has_encoder
    family = FAMILIES["spacebyte"]
    config = ExperimentConfig(model=family, data=DataConfig(sequence_length=16))
    assert LoadedModel(SavedModel(config, 7, *split_model(family), {})).has_patches


def test_the_package_imports_jax_when_a_name_is_first_used():
    program = """
import sys, bytelm
assert {"LoadedModel", "load", "__version__"} <= set(dir(bytelm)) and "jax" not in sys.modules
assert bytelm.load.__module__ == bytelm.api.__name__ and "jax" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_has_its_names_and_modules_and_no_others():
    assert bytelm.training.experiment.__name__ == "bytelm.training.experiment"
    assert all(getattr(bytelm, name) is getattr(bytelm.api, name) for name in bytelm.__all__)
    for name in ("lod", "__main__", "__wrapped__"):
        assert not hasattr(bytelm, name)


def test_drafts_are_checked_and_change_no_text(model):
    options = {"max_bytes": 8, "temperature": 0.9, "seed": 1}
    wanted = model.generate(["abab"], **options)
    assert model.generate(["abab"], draft="lookup", draft_length=3, **options) == wanted
    assert b"".join(model.stream("abab", draft_model=model, **options)) == wanted[0]
    with pytest.raises(UserError, match="draft stale needs a model with patches"):
        model.generate("a", draft="stale", max_bytes=2)
    with pytest.raises(UserError, match="draft-length is 0"):
        model.stream("a", draft="lookup", draft_length=0, max_bytes=2)
    with pytest.raises(UserError, match="two drafters"):
        model.generate("a", draft="lookup", draft_model=model, max_bytes=2)
    graphdef, params = split_model(ENCODER_DECODERS["byt5"])
    config = dataclasses.replace(model.config, model=ENCODER_DECODERS["byt5"])
    translator = LoadedModel(SavedModel(config, 7, graphdef, params, {}))
    with pytest.raises(UserError, match="writes targets of inputs; leave out draft"):
        translator.generate("a", draft="lookup", max_bytes=2)
    auto, plain = (translator.generate("a", draft=kind, max_bytes=2) for kind in ("auto", "none"))
    assert auto == plain
    with pytest.raises(UserError, match="other symbols than the model"):
        model.generate("a", draft_model=translator, max_bytes=2)
