"""Entropy models of segmenters: read from their checkpoints when a run starts, then carried by it.

The config of a run has the entropy model's own config and the digest of its parameters; the
checkpoints of the run hold the parameters themselves. So nothing is read from the entropy model's
folder when the run resumes, or is evaluated, exported or converted.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from bytelm.core.config_json import mapped, to_dict
from bytelm.core.errors import UserError
from bytelm.core.places import place
from bytelm.data.config import NextByte
from bytelm.data.corpus.entropies import EntropyReader
from bytelm.models import ModelConfig
from bytelm.models.entropy_patches import (
    EntropyModelPatches,
    EntropySegmenter,
    entropy_patches,
)
from bytelm.models.parameters import abstract_model
from bytelm.nn.mesh import single_device_mesh
from bytelm.patching.entropy import STEP
from bytelm.training.checkpoints.checkpoint import last_step, load_model
from bytelm.training.checkpoints.digests import digest_arrays, digest_json
from bytelm.training.experiment import ExperimentConfig

WHERE = "model.segmenter"


def with_entropy_model(
    config: ExperimentConfig, resumed: ExperimentConfig | None = None, *, verify: bool = True
) -> ExperimentConfig:
    """The config with the entropy model that its segmenter names, if it has such a segmenter.

    If none is named, it is that of the run of `train.initial`, with whose parameters it comes.

    Args:
        resumed: the saved config of the run that is resumed, which has its own.
        verify: whether to compare the entropy model with its digests.

    Raises:
        UserError: if there is no entropy model, it cannot be one, or it is not that of the run.
    """
    named, own = entropy_patches(config.model), None
    if resumed is not None:
        own = entropy_patches(resumed.model)
    elif named is not None and config.train.initial is not None:
        start = entropy_patches(load_model(place(config.train.initial), verify=verify).config.model)
        is_same = start is not None and named.digest is not None and named.digest == start.digest
        if start is not None and (named.checkpoint is None or is_same):
            own = replace(start, checkpoint=None)
            config = replace(config, model=_without_checkpoint(config.model))

    def read(patches: EntropyModelPatches) -> EntropyModelPatches:
        if own is not None and patches.checkpoint in (None, own.checkpoint):
            return _like(patches, own)
        if patches.checkpoint is None or (own is None and patches.model is not None):
            return patches
        found, _ = read_entropy_model(patches, verify=verify)
        if own is not None and own.digest == found.digest:
            return _like(patches, own)
        if own is not None:
            raise UserError(
                f"{WHERE}.checkpoint {patches.checkpoint} is not the entropy model that the run "
                "was started with; leave the option out, or start a new run."
            )
        return found

    model = mapped(config.model, EntropyModelPatches, read)
    if (patches := entropy_patches(model)) is not None:
        _ = patches.entropy_model  # an error if it has none
    return replace(config, model=model)


def read_entropy_model(
    patches: EntropyModelPatches, *, option: str = f"{WHERE}.checkpoint", verify: bool = True
) -> tuple[EntropyModelPatches, Any]:
    """A segmenter's config with the entropy model that it names, and the model's parameters.

    Raises:
        UserError: if `option` names no checkpoint, or one of another kind of model.
    """
    try:
        found = load_model(place(str(patches.checkpoint)), verify=verify)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
    patches.check_model(found.config.model, option)
    digest = entropy_digest(found.params)
    return replace(patches, model=found.config.model, digest=digest), found.params


def fill_entropy_model(model: ModelConfig, params: Any, shardings: Any, *, verify: bool) -> Any:
    """Fresh parameters of a run, with those of the entropy model from its checkpoint.

    Args:
        params, shardings: nested dicts, where the parameters are placed.

    Raises:
        UserError: if the checkpoint is not the one that the config was made with.
    """
    values, places = flatten_dict(params, sep="/"), flatten_dict(shardings, sep="/")
    for prefix, patches in _segmenters(model):
        if patches.digest is None or patches.checkpoint is None:
            continue
        found, own = read_entropy_model(patches, verify=verify)
        if found.digest != patches.digest:
            raise UserError(
                f"{WHERE}.checkpoint {patches.checkpoint} no longer has the parameters that the "
                "run was started with; put them back, or start a new run."
            )
        for name, leaf in flatten_dict(own, sep="/").items():
            path = f"{prefix}/model/{name}"
            values[path] = jax.device_put(leaf, places[path])
    return unflatten_dict(values, sep="/")


def entropy_reader(config: ExperimentConfig, run: Path | None) -> EntropyReader | None:
    """What computes stored entropies for the text of a run; None if they are not to be stored.

    Nothing is read until there is text without entropies.

    Args:
        config: with its entropy model.
        run: the directory of the run that is resumed; None for a new one.

    Raises:
        UserError: if the task has other rows than those of packed text.
    """
    patches = entropy_patches(config.model)
    if patches is None or not patches.stored:
        return None
    if patches.digest is None:
        raise UserError(
            f"{WHERE}.stored is on, and the entropy model was never trained; name a trained one "
            f"with --{WHERE}.checkpoint."
        )
    task = config.data.task
    if not isinstance(task, NextByte) or task.streamed or task.shard_bytes or task.stochastok:
        raise UserError(
            f"{WHERE}.stored is on, and the rows of this text are not the same in each epoch or "
            "are never packed; leave the option out."
        )
    names = ("model", "digest", "reset", "published_symbols")
    read_as = {name: to_dict(getattr(patches, name)) for name in names}
    digest = digest_json("model", {**read_as, "step": STEP})["model"]
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: patches.build_alone(nnx.Rngs(0))))

    @functools.cache
    def params() -> Any:
        if run is not None and last_step(run) is not None:
            found = flatten_dict(load_model(run).params, sep="/")
            prefix = f"{next(_segmenters(config.model))[0]}/model/"
            own = {n.removeprefix(prefix): x for n, x in found.items() if n.startswith(prefix)}
            return unflatten_dict(own, sep="/")
        return read_entropy_model(patches)[1]

    @jax.jit
    def entropies(params: Any, ids: jax.Array, document_ids: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, {"model": params}).entropies(ids, document_ids)

    def read(ids: np.ndarray, document_ids: np.ndarray) -> np.ndarray:
        with jax.set_mesh(single_device_mesh()):
            return np.asarray(entropies(params(), ids, document_ids))

    return EntropyReader(digest, read)


def entropy_digest(params: Any) -> str:
    """The digest of an entropy model's parameters, a nested dict."""
    return digest_json("params", digest_arrays("params", params))["params"]


def with_digest(model: ModelConfig, params: Any) -> ModelConfig:
    """The config of a model with these parameters, with the digest of its entropy model."""
    flat = flatten_dict(params, sep="/")
    starts = [f"{prefix}/model/" for prefix, _ in _segmenters(model)]
    if not starts:
        return model
    own = {n.removeprefix(starts[0]): x for n, x in flat.items() if n.startswith(starts[0])}
    digest = entropy_digest(unflatten_dict(own, sep="/"))
    return mapped(model, EntropyModelPatches, lambda patches: replace(patches, digest=digest))


def in_entropy_model(model: ModelConfig) -> Callable[[str], bool]:
    """Whether the parameter of a name, such as "head/kernel", is one of a carried entropy model."""
    prefixes = tuple(f"{prefix}/model/" for prefix, _ in _segmenters(model))
    return lambda name: name.startswith(prefixes)


def _segmenters(model: ModelConfig) -> Iterator[tuple[str, EntropyModelPatches]]:
    """The segmenters with an entropy model, each with the path of its parameters."""
    whole = nnx.merge(*abstract_model(model))
    for path, module in nnx.iter_modules(whole):
        if isinstance(module, EntropySegmenter):
            yield "/".join(map(str, path)), module.config


def _like(patches: EntropyModelPatches, own: EntropyModelPatches) -> EntropyModelPatches:
    names = ("checkpoint", "model", "digest", "published_symbols")
    return replace(patches, **{name: getattr(own, name) for name in names})


def _without_checkpoint(model: ModelConfig) -> ModelConfig:
    forget = functools.partial(replace, checkpoint=None)
    found: ModelConfig = mapped(model, EntropyModelPatches, forget)
    return found
