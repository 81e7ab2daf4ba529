"""Runs whose segmenter has an entropy model: they carry it, and never train it."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import bytelm
from bytelm.core.errors import UserError
from bytelm.data.config import NextByte
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.models.entropy_patches import EntropyModelPatches, EntropySegmenter
from bytelm.models.parameters import count_frozen, count_parameters
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import Checkpoints, load_model
from bytelm.training.checkpoints.exported import export, load_exported
from bytelm.training.compatibility import read_initial
from bytelm.training.cost import step_flops
from bytelm.training.entropy_models import entropy_digest, entropy_reader, with_entropy_model
from bytelm.training.experiment import load_json
from bytelm.training.loop import train
from bytelm.training.program import abstract_state
from tests.training.tiny_run import assert_same, params, stop_after

FROZEN = "segmenter/model/"


@pytest.fixture(scope="module")
def entropy_run(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("entropy_model") / "run"
    shutil.copytree(whole, folder)
    return folder


@pytest.fixture(scope="module")
def patched(config, entropy_run):
    """The config of a SpaceByte with a trained entropy model."""
    model = SpaceByteConfig(
        local_width=16,
        local_depth=2,
        global_width=16,
        global_depth=1,
        head_width=8,
        bytes_per_slot=2.0,
        segmenter=EntropyModelPatches(str(entropy_run), threshold=5.0, longest_patch=8),
    )
    return replace(config, model=model, train=replace(config.train, steps=4))


@pytest.fixture(scope="module")
def carrying(patched, tmp_path_factory):
    """Its run of 4 steps, with checkpoints after 2 and 4."""
    run = tmp_path_factory.mktemp("carrying")
    train(patched, run)
    return run


def frozen_of(tree):
    found = flatten_dict(tree, sep="/")
    return {name.removeprefix(FROZEN): x for name, x in found.items() if name.startswith(FROZEN)}


def test_a_checkpoint_is_whole_and_its_entropy_model_untouched(
    carrying, entropy_run, patched, tmp_path
):
    original = params(entropy_run)
    for step in (2, 4):
        found = frozen_of(params(carrying, step))
        assert_same(found, flatten_dict(original, sep="/"))
    saved = load_model(carrying)
    segmenter = saved.config.model.segmenter
    assert segmenter.model == load_model(entropy_run).config.model
    assert segmenter.digest == entropy_digest(original)
    export(saved, tmp_path / "folder")
    assert_same(load_exported(tmp_path / "folder").params, saved.params)

    optimizer = jax.tree.leaves(abstract_state(saved.config).optimizer)
    moments = sum(x.size for x in optimizer if x.ndim)
    assert moments == 2 * count_parameters(saved.config.model)[0]
    assert count_frozen(saved.config.model) == sum(x.size for x in jax.tree.leaves(original))


def test_weights_in_bfloat16_leave_the_entropy_model_as_it_is(carrying):
    found = flatten_dict(bytelm.load(carrying, weights="bfloat16").params, sep="/")
    kinds = {name: x.dtype for name, x in found.items()}
    assert {kind for name, kind in kinds.items() if FROZEN in name} == {np.dtype("float32")}
    assert {kind for name, kind in kinds.items() if FROZEN not in name} == {jnp.bfloat16.dtype}


def test_a_run_resumes_without_the_folder_of_the_entropy_model(
    carrying, patched, entropy_run, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train(patched, run)
    moved = entropy_run.rename(entropy_run.with_name("moved"))
    try:
        train(patched, run, resume=True)
        other = replace(patched.model.segmenter, checkpoint=str(moved))
        same = replace(patched, model=replace(patched.model, segmenter=other))
        saved = Checkpoints(run, 1).config()
        assert with_entropy_model(same, saved).model == saved.model
    finally:
        moved.rename(entropy_run)
    assert_same(params(run), params(carrying))


def test_another_entropy_model_is_refused_when_resuming(carrying, patched, whole, tmp_path):
    other = replace(patched.model.segmenter, checkpoint=str(carrying))
    config = replace(patched, model=replace(patched.model, segmenter=other))
    # Also if the other options are those of the run's config.json, which has the entropy model.
    saved = load_json(carrying / "config.json")
    named = replace(saved.model.segmenter, checkpoint=str(carrying))
    for given in (config, replace(saved, model=replace(saved.model, segmenter=named))):
        with pytest.raises(UserError, match=r"is not the entropy model that the run was started"):
            train(given, carrying, resume=True)


def test_an_entropy_model_that_was_trained_on_does_not_start_the_run(
    carrying, patched, whole, tmp_path
):
    folder = tmp_path / "entropy_model"
    shutil.copytree(whole, folder)
    named = replace(patched.model.segmenter, checkpoint=str(folder))
    config = with_entropy_model(replace(patched, model=replace(patched.model, segmenter=named)))
    shutil.rmtree(folder)
    shutil.copytree(carrying, folder)
    with pytest.raises(UserError, match="no longer has the parameters that the run was started"):
        train(config, tmp_path / "run")


def test_a_run_takes_the_entropy_model_of_train_initial_if_it_names_none(
    carrying, patched, tmp_path
):
    unnamed = replace(patched.model.segmenter, checkpoint=None, threshold=4.0)
    config = replace(
        patched,
        model=replace(patched.model, segmenter=unnamed),
        train=replace(
            patched.train,
            steps=1,
            initial=str(carrying),
            initial_differences=("segmenter.threshold",),
        ),
    )
    train(config, tmp_path / "run")
    assert_same(frozen_of(params(tmp_path / "run")), frozen_of(params(carrying)))
    found = load_model(tmp_path / "run").config.model.segmenter
    assert found.digest == load_model(carrying).config.model.segmenter.digest
    assert found.checkpoint is None


def test_another_run_starts_from_all_but_the_entropy_model(carrying, patched):
    config = with_entropy_model(patched)
    started = replace(config, train=replace(config.train, initial=str(carrying)))
    fresh = jax.tree.map(np.asarray, params(carrying))
    found, differences = read_initial(started, fresh, verify=True)
    assert not differences and found and not any(name.startswith(FROZEN) for name in found)


def test_stored_entropies_give_the_same_run_and_are_computed_once(
    carrying, patched, tmp_path, monkeypatch
):
    segmenter = replace(patched.model.segmenter, stored=True)
    config = replace(patched, model=replace(patched.model, segmenter=segmenter))
    assert step_flops(with_entropy_model(config)) < step_flops(with_entropy_model(patched))
    train(config, tmp_path / "first")
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=1e-5),
        params(tmp_path / "first"),
        params(carrying),
    )
    entry = [path.name for path in (Path(config.data.cache_dir) / "entropies").iterdir()]
    monkeypatch.setattr(EntropySegmenter, "entropies", None)  # nobody calls it any more
    batches = train_loader(
        OpenData(config.data, entropies=entropy_reader(with_entropy_model(config), None)), 0
    )
    assert next(batches).entropies.shape == (8, 32)
    batches.close()
    assert len([name for name in entry if name.endswith("-32")]) == 1

    shards = replace(config, data=replace(config.data, task=NextByte(shard_bytes=100)))
    with pytest.raises(UserError, match=r"model.segmenter.stored is on, and the rows of this text"):
        entropy_reader(with_entropy_model(shards), None)


def test_errors(patched, config, tmp_path):
    def given(**changes):
        segmenter = EntropyModelPatches(**changes)
        return replace(patched, model=replace(patched.model, segmenter=segmenter))

    with pytest.raises(
        UserError, match=r"has no entropy model; name the run of one with --model.s"
    ):
        train(given(), tmp_path / "run")
    with pytest.raises(UserError, match=r"model.segmenter.checkpoint: .*none is no run directory"):
        train(given(checkpoint=str(tmp_path / "none")), tmp_path / "run")
    subwords = replace(config, model=TransformerConfig(width=16, head_width=8, vocabulary=300))
    assert subwords.model.symbols.size == 300
    with pytest.raises(UserError, match="reads 300 tokens, and an entropy model must read bytes"):
        given(checkpoint="x", model=subwords.model)
