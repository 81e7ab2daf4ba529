"""BLT's golden vectors: the authors' weights in our layout, and runs of our model with them.

The patches of a case are given, and are put in place of what our segmenter finds. In their rows
patches, n-grams and cross-attention run on from one document into the next, so a row's documents
are given too: one ends with its END in attention over bytes, and with the patch that holds an END
in the backbone.
"""

from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bytelm.core.vocabulary import PAD, START
from bytelm.models import blt
from bytelm.models.blt import BLT, BLTConfig
from bytelm.nn.stack import Stack
from bytelm.patching.ended import EndedPatches
from bytelm.patching.levels import Segmentation, Symbols
from bytelm.patching.segmenter import Boundaries
from tests.models.golden import Case

EOS = 2
ROWS = np.r_[4:260, EOS, 1, 0]
"""Their id of each of our symbols: the bytes, END, START and PAD."""
OUTPUTS = ROWS[:257]


def ours(tokens: np.ndarray) -> np.ndarray:
    """Our symbols of their ids."""
    special = np.array([PAD, START, 256, PAD])
    return np.where(tokens > 3, tokens - 4, special[np.minimum(tokens, 3)]).astype(np.int32)


def mlp_width(width: int, multiple: int) -> int:
    return multiple * -(-int(8 * width / 3) // multiple)


def model_config(case: Case) -> BLTConfig:
    """The config of a case; parts that it does not have are as small as can be."""
    cfg, d = case.cfg, case.cfg.get("dim_local_encoder", case.cfg.get("dim_local_decoder"))
    multiple, width = cfg["multiple_of"], cfg["dim_global"]
    depth = cfg.get("n_layers_local_encoder", 1)
    heads = cfg.get("n_heads_local_encoder", cfg.get("n_heads_local_decoder", 1))
    sizes = cfg.get("encoder_hash_byte_group_size", "")

    def positive(name: str, otherwise: Any) -> Any:
        return otherwise if cfg.get(name, -1) < 0 else cfg[name]

    def cross(side: str, some: str, everywhere: str) -> Any:
        if not cfg.get(f"cross_attn_{side}", True):
            return "none"
        return everywhere if cfg.get(f"cross_attn_all_layers_{side}") else some

    return BLTConfig(
        local_width=d,
        global_width=width,
        global_depth=cfg.get("n_layers_global", 1),
        head_width=d // heads,
        encoder_depth=depth,
        decoder_depth=cfg.get("n_layers_local_decoder", 1),
        window=cfg.get("local_attention_window_len"),
        vectors=cfg.get("cross_attn_k", 1),
        pooling=tuple(cfg.get("downsampling_by_pooling", "max").split(",")),
        encoder_cross=cross("encoder", "last", "all"),
        decoder_cross=cross("decoder", "first", "all"),
        encoder_patches=positive("cross_attn_window_encoder", 1),
        decoder_patches=positive("cross_attn_window_decoder", 1),
        cross_heads=cfg.get("cross_attn_nheads"),
        local_key_value_heads=positive("n_kv_heads", None),
        local_mlp_width=mlp_width(d, multiple),
        global_head_width=width // cfg.get("n_heads_global", 1),
        global_key_value_heads=positive("n_kv_heads_global", None),
        global_mlp_width=mlp_width(width, multiple),
        ngrams=tuple(map(int, sizes.split(","))) if sizes else (),
        ngram_functions=cfg.get("encoder_hash_byte_group_nb_functions", 1),
        ngram_rows=cfg.get("encoder_hash_byte_group_vocab", 1),
        rope_theta=cfg.get("rope_theta", 10_000.0),
        qk_norm=False,
        scaled_init=False,
    )


def kernel(weight: jax.Array) -> dict[str, jax.Array]:
    return {"kernel": weight.T}


def _halves(weight: jax.Array, head_width: int) -> jax.Array:
    """They rotate neighbouring channels together, we channels half a head apart."""
    order = np.r_[0:head_width:2, 1:head_width:2]
    return weight.reshape(-1, head_width, weight.shape[1])[:, order].reshape(weight.shape)


def _cross(weights: Mapping[str, jax.Array], name: str) -> dict[str, Any]:
    return {
        "query_norm": {"scale": weights[f"{name}.cross_attn_norm_q.weight"]},
        "key_norm": {"scale": weights[f"{name}.cross_attn_norm_kv.weight"]},
        **{
            part: kernel(weights[f"{name}.w{part[0]}.weight"])
            for part in ("query", "key", "value", "output")
        },
    }


def _blocks(
    weights: Mapping[str, jax.Array], name: str, layers: range, head_width: int, cross: bool = False
) -> dict[str, Any]:
    """The blocks of these layers of a part, stacked."""
    crossing = f"{name}.cross_attn_layers" if cross else None
    return {"blocks": blocks(weights, f"{name}.layers", layers, head_width, crossing)}


def blocks(
    weights: Mapping[str, jax.Array],
    name: str,
    layers: range,
    head_width: int,
    crossing: str | None = None,
) -> dict[str, Any]:
    """The blocks of these layers, stacked, with the cross-attentions of that name."""

    def block(layer: int) -> dict[str, Any]:
        w = {k: weights[f"{name}.{layer}.{k}.weight"] for k in NAMES}
        found = {
            "attention_norm": {"scale": w["attention_norm"]},
            "mlp_norm": {"scale": w["ffn_norm"]},
            "attention": {
                "query": kernel(_halves(w["attention.wq"], head_width)),
                "key": kernel(_halves(w["attention.wk"], head_width)),
                "value": kernel(w["attention.wv"]),
                "output": kernel(w["attention.wo"]),
            },
            "mlp": {
                "gate": kernel(w["feed_forward.w1"]),
                "up": kernel(w["feed_forward.w3"]),
                "down": kernel(w["feed_forward.w2"]),
            },
        }
        if crossing is not None:
            found["cross"] = _cross(weights, f"{crossing}.{layer}")
        return found

    found: dict[str, Any] = jax.tree.map(lambda *x: jnp.stack(x), *map(block, layers))
    return found


NAMES = (
    *("attention_norm", "ffn_norm"),
    *(f"attention.{name}" for name in ("wq", "wk", "wv", "wo")),
    *(f"feed_forward.{name}" for name in ("w1", "w2", "w3")),
)


def model_parameters(weights: Mapping[str, jax.Array], config: BLTConfig) -> dict[str, Any]:
    """Our parameters of the parts that the weights have."""
    found: dict[str, Any] = {}
    encoder, decoder = "local_encoder", "local_decoder"
    head, wide_head = config.head_width, config.global_head
    if f"{encoder}.tok_embeddings.weight" in weights:
        embedding = {"embedding": weights[f"{encoder}.tok_embeddings.weight"][ROWS]}
        tables = [f"encoder_hash_tok_embedding.{index}.weight" for index in range(99)]
        tables = [weights[name] for name in tables if name in weights]
        if tables:
            embedding["ngrams"] = {"table": jnp.concatenate(tables)}
        found["embedding"] = embedding
        size, found["encoder"] = config.encoder_depth // config.stages, {}
        for stage in range(config.stages):
            layers = range(stage * size, (stage + 1) * size)
            part = {"stack": _blocks(weights, encoder, layers, head)}
            if config.encoder_cross != "none":
                part["cross"] = _cross(weights, f"{encoder}.cross_attn_layers.{stage}")
            found["encoder"][str(stage)] = part
        if config.encoder_cross != "none":
            name = f"{encoder}.patch_embedding_projection.weight"
            found["to_queries"] = kernel(weights[name])
    if "global_transformer.layers.0.ffn_norm.weight" in weights:
        if config.patch_width != config.global_width:
            name = "global_transformer.token_embedding_projection.weight"
            found["to_global"] = kernel(weights[name])
        layers = range(config.global_depth)
        found["backbone"] = _blocks(weights, "global_transformer", layers, wide_head)
    if f"{decoder}.norm.weight" in weights:
        found["to_decoder"] = kernel(weights[f"{decoder}.patch_embedding_projection.weight"])
        layers, everywhere = range(config.decoder_depth), config.decoder_cross == "all"
        found["decoder"] = _blocks(weights, decoder, layers, head, everywhere)
        if config.decoder_cross == "first":
            found["decoder_cross"] = _cross(weights, f"{decoder}.cross_attn_layers.0")
        found["final_norm"] = {"scale": weights[f"{decoder}.norm.weight"]}
        found["head"] = kernel(weights[f"{decoder}.output.weight"][OUTPUTS])
    return found


def patches_of(case: Case, symbols: Symbols) -> Segmentation:
    """The case's patches, which take the place of our segmenter's."""
    tokens = case.input.get("tokens")
    if tokens is None:  # the backbone alone
        slot_tokens = case.input["patch_tokens"]
        ended = np.cumsum(slot_tokens == EOS, axis=1) - (slot_tokens == EOS)
        index = read = np.zeros(symbols.ids.shape, np.int32)
    else:
        ends = np.cumsum(case.input["patch_lengths"], axis=1)  # [B, P]
        times = np.arange(tokens.shape[1])[None, :, None]
        index = (ends[:, None] <= times).sum(axis=2).astype(np.int32)
        read = (ends[:, None] <= times + 1).sum(axis=2).astype(np.int32) - 1
        holds = np.zeros(ends.shape, int)
        np.add.at(holds, (np.arange(len(tokens))[:, None], index), tokens == EOS)
        ended = np.cumsum(holds > 0, axis=1) - (holds > 0)
        np.testing.assert_array_equal(index, case.out.get("patch_ids", index))
        np.testing.assert_array_equal(read, case.out.get("decoder_patch_ids", read))
    none = np.zeros(ended.shape, bool)
    total = np.full(len(ended), ended.shape[1])
    patches = EndedPatches(
        *map(jnp.asarray, (index, read, index < 0, none, ended + 1, total, np.int32(0)))
    )
    return Segmentation(symbols, Boundaries(index < 0, np.zeros(index.shape)), patches)


def symbols_of(case: Case) -> Symbols:
    """The case's rows."""
    tokens = case.input.get("tokens")
    tokens = np.full((len(case.input["patch_vectors"]), 1), 5) if tokens is None else tokens
    documents = 1 + np.cumsum(tokens == EOS, axis=1) - (tokens == EOS)
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return Symbols(*map(jnp.asarray, (ours(tokens), documents, positions)))


def run(case: Case, config: BLTConfig, given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """What the model computes with weights, and inputs named `in.X`, in the names of `out`."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(state)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    own = model_parameters(given, config)
    for name, part in own.items():
        assert jax.tree.map(jnp.shape, part) == jax.tree.map(jnp.shape, shapes[name]), name
    model, seen, run_stack = nnx.merge(graphdef, params | own), {}, Stack.__call__
    patches = BLT._patches

    def stack(self: Stack, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        name = {id(model.backbone): "global_out", id(model.decoder): "h_decoder"}
        name = name.get(id(self), "h_encoder")
        fixed = given.get(f"in.{name}")
        seen[name] = run_stack(self, x, *args, **kwargs) if fixed is None else fixed
        return seen[name]

    def recorded(self: BLT, *args: Any) -> Any:
        vectors, patch = patches(self, *args)
        found = given.get("in.patch_vectors")
        seen["patch_vectors"] = vectors() if found is None else found
        return lambda: seen["patch_vectors"], patch

    def segmented(segmenter: Any, x: Any, symbols: Symbols, *args: Any, **options: Any) -> Any:
        return patches_of(case, symbols), None

    with (
        mock.patch.object(Stack, "__call__", stack),
        mock.patch.object(BLT, "_patches", recorded),
        mock.patch.object(blt, "segment_ended", segmented),
    ):
        x, _, _ = model.forward(symbols_of(case))
    seen["logits"] = model.logits(x)
    if "local_decoder.output.weight" in given:
        seen["all_logits"] = model.final_norm(x) @ given["local_decoder.output.weight"].T
    return seen
