"""Multi-token prediction's golden vectors: the authors' weights in our layout.

Their text has no START or END. The last row of their tables stands for END, as in a published model
(`FlatConfig.end_row`), so that its logit is that of our END.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from bytelm.models.draft import BlockDraft, LinearDraft
from bytelm.models.transformer import TransformerConfig
from tests.models.golden import Case
from tests.models.golden_blt import blocks, kernel, mlp_width


def model_config(case: Case) -> TransformerConfig:
    cfg = case.cfg
    heads, is_linear = cfg["n_future_tokens"], "heads.0.weight" in case.param
    draft = LinearDraft(heads) if is_linear else BlockDraft(heads, shortened=True)
    last = cfg["vocab_size"] - 1
    return TransformerConfig(
        width=cfg["dim"],
        # Their layers are the trunk's and one for each head, ours those of the trunk and of head 1.
        depth=cfg["n_layers"] - (0 if is_linear else heads - 1),
        heads=cfg["n_heads"],
        key_value_heads=cfg.get("n_kv_heads"),
        head_width=cfg["dim"] // cfg["n_heads"],
        mlp_width=mlp_width(cfg["dim"], cfg["multiple_of"]),
        rope_theta=cfg["rope_theta"],
        norm_epsilon=cfg["norm_eps"],
        vocabulary=cfg["vocab_size"],
        start_row=last,
        end_row=last,
        draft=draft,
    )


def parameters(case: Case, config: TransformerConfig) -> dict[str, Any]:
    weights = {name: jnp.asarray(value) for name, value in case.param.items()}
    width, ahead = config.head_width, range(config.draft.heads - 1)
    found = {
        "embedding": {"embedding": weights["tok_embeddings.weight"]},
        "stack": {"blocks": blocks(weights, "layers", range(config.depth), width)},
        "final_norm": {"scale": weights["norm.weight"]},
    }
    if isinstance(config.draft, LinearDraft):
        found["head"] = kernel(weights["heads.0.weight"])
        heads = [weights[f"heads.{index + 1}.weight"].T for index in ahead]
        return {**found, "draft": {"stack": {"blocks": {"kernel": jnp.stack(heads)}}}}
    found["head"] = kernel(weights["output.weight"])
    return {**found, "draft": {"stack": {"blocks": blocks(weights, "extra_heads", ahead, width)}}}


def ours(tokens: np.ndarray, config: TransformerConfig) -> np.ndarray:
    """Targets in our vocabulary: their last one is END."""
    last = config.vocabulary - 1
    return np.where(tokens == last, config.symbols.end, tokens).astype(np.int32)


def theirs(logits: Any) -> Any:
    """The logits of their vocabulary, of ours, in which END's has the last place."""
    return jnp.concatenate([logits[..., :-2], logits[..., -1:]], axis=-1)
