"""A segmenter with an entropy model: patches start where the next byte is hard to predict.

The entropy model is any trained decoder of bytes, such as a small `transformer`. A model that is
cut by it carries its parameters, frozen, so that a checkpoint is whole by itself. `bytelm.patching.
entropy` has the rule.

The entropy model always computes in float32 with exact products, whatever the dtype of the model
around it. It sees each row and each document alone. With `reset`, its context begins again at every
newline, which is the first symbol of the new context as START is that of a document. (The paper's
8B model does so, since repeated text lowers entropies until patches are huge; the code has no such
option, so what stands at the beginning is our choice.)
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.config_json import mapped
from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES
from bytelm.models.blocks import BlocksConfig
from bytelm.models.contract import Batch, ModelConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.transformer import FlatConfig
from bytelm.nn.roles import freeze
from bytelm.patching.entropy import EntropyCarry, EntropyRule, entropies_of, entropy_edges
from bytelm.patching.patches import positions_in_run
from bytelm.patching.rules import count_own, last_own
from bytelm.patching.segmenter import Boundaries, Needs, Segmenter, SegmenterConfig

NEWLINE = ord("\n")
PUBLISHED_THRESHOLD = 1.335442066192627
"""Of the released BLT models with their entropy model, in nats."""
PUBLISHED_SYMBOLS = 260
"""Four special ids, then the bytes, all of them both read and predicted."""
PUBLISHED_START, PUBLISHED_END, PUBLISHED_FIRST = 1, 2, 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EntropyModelCarry:
    """Decoding state of the segmenter."""

    model: Any  # of the entropy model
    context: jax.Array  # int32 [B], newlines read
    rule: EntropyCarry


class EntropySegmenter(Segmenter):
    """Boundaries by the entropies of a frozen model. It has no carry after whole rows."""

    def __init__(
        self,
        config: "EntropyModelPatches",
        width: int,
        needs: Needs,
        *,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.config, self.mark = config, needs.mark
        self.model = config.entropy_model.build(rngs)
        freeze(self.model)

    def entropies(self, ids: jax.Array, document_ids: jax.Array) -> jax.Array:
        """Of whole rows, int32 `[B, T]` each: float32 `[B, T]`, in nats."""
        if self.config.reset:
            document_ids = _contexts(ids, document_ids)
        ids = self.config.own_ids(ids)
        batch = Batch(ids, jnp.zeros_like(ids), document_ids)
        with jax.default_matmul_precision("highest"):
            return entropies_of(jax.lax.stop_gradient(self.model(batch).logits))

    def next_entropies(
        self, ids: jax.Array, document_ids: jax.Array, carry: EntropyModelCarry
    ) -> tuple[jax.Array, Any, jax.Array]:
        """Those of the next symbols of rows, the entropy model's new state, and new `context`."""
        lengths, options = count_own(document_ids), {}
        context = carry.context
        if self.config.reset:
            number = context[:, None] + jnp.cumsum(ids == NEWLINE, axis=1)  # [B, N]
            options["group_ids"] = number
            context = last_own(number, document_ids, context)
        with jax.default_matmul_precision("highest"):
            logits, state = self.model.extend(
                self.config.own_ids(ids), carry.model, lengths, **options
            )
            return entropies_of(logits), state, context

    def __call__(
        self,
        states: jax.Array | None,
        ids: jax.Array,
        document_ids: jax.Array,
        carry: EntropyModelCarry | None = None,
        keys: jax.Array | None = None,
        entropies: jax.Array | None = None,
    ) -> tuple[Boundaries, EntropyModelCarry | None]:
        """As in `Segmenter`; `entropies` float32 `[B, T]` of whole rows, if they are known."""
        rule, after = self.config.entropy_rule, None
        if carry is None:
            known = self.entropies(ids, document_ids) if entropies is None else entropies
            edges, _ = entropy_edges(rule, known, document_ids)
        else:
            found, state, context = self.next_entropies(ids, document_ids, carry)
            edges, of_rule = entropy_edges(rule, found, document_ids, carry.rule)
            after = EntropyModelCarry(state, context, of_rule)
        hard = edges.starts if self.mark == "start" else edges.ends
        return Boundaries.decided(hard), after

    def init_carry(self, rows: int, length: int, dtype: jnp.dtype) -> EntropyModelCarry:
        return EntropyModelCarry(
            self.model.init_state(rows, length),
            jnp.zeros((rows,), jnp.int32),
            EntropyCarry.empty(rows),
        )


def _contexts(ids: jax.Array, document_ids: jax.Array) -> jax.Array:
    """Ids of the parts of documents that begin at newlines, int32 `[B, T]`; 0 in padding."""
    begins = (positions_in_run(document_ids) == 0) | (ids == NEWLINE)
    return jnp.where(document_ids > 0, jnp.cumsum(begins, axis=1), 0)


@dataclass(frozen=True)
class EntropyModelPatches(SegmenterConfig):
    """Patches by the entropies of a trained model of bytes (arXiv 2412.09871)."""

    kind: ClassVar[str] = "entropy_model"
    module: ClassVar[type[Any]] = EntropySegmenter
    needs_bytes: ClassVar[bool] = True

    checkpoint: str | None = None
    """Run directory, or exported folder, of the entropy model. It is read when a run starts; the
    run then carries the model, and no longer needs the folder."""
    threshold: float | None = PUBLISHED_THRESHOLD
    """A patch starts after a byte if the entropy of the next one exceeds this, in nats; None for no
    threshold. `bytelm data entropies` finds the one for a mean length of patches."""
    rise: float | None = None
    """A patch starts after a byte if the entropy exceeds the one before by more than this, in nats
    ("approximate monotonic"); with a threshold, if both hold. None for no such condition."""
    longest_patch: int | None = None
    """Most bytes in a patch; a longer one is split. None for no limit."""
    reset: bool = False
    """Whether the entropy model's context begins again at each newline."""
    bytes_per_patch: float = 4.5
    """The mean that these thresholds give; it sets the default number of slots."""
    stored: bool = False
    """Whether the entropies of training's text are computed once, and stored in `data.cache_dir`
    with the packed text; otherwise each step computes those of its rows. The patches are the same.
    """
    published_symbols: bool = False
    """Whether the entropy model has the 260 symbols of the released ones."""
    model: ModelConfig | None = None
    """The entropy model, which a run takes from the checkpoint."""
    digest: str | None = None
    """Of the entropy model's parameters; None for fresh ones."""

    def check_values(self, where: str) -> None:
        self.require_positive("longest_patch", "bytes_per_patch", where=where)
        if self.threshold is None and self.rise is None:
            raise UserError(f"{where} has neither a threshold nor a rise; give one of them.")
        if self.model is not None:
            self.check_model(self.model, f"{where}.checkpoint")

    def check_model(self, model: ModelConfig, option: str) -> None:
        """Raises UserError unless this can be the entropy model; `option` names another one."""
        name = "of the segmenter" if self.checkpoint is None else self.checkpoint
        size = model.symbols.size
        wanted = PUBLISHED_SYMBOLS - 1 if self.published_symbols else BYTES
        if isinstance(model, EncoderDecoderConfig):
            reason = f"is of the family {model.family}, which has an encoder"
        elif size != wanted and self.published_symbols:
            reason = f"has {size + 1} outputs, and the released ones have {PUBLISHED_SYMBOLS}"
        elif size != wanted:
            reason = f"reads {size} tokens, and an entropy model must read bytes"
        elif self.reset and not isinstance(model, FlatConfig):
            reason = f"is of the family {model.family}, and reset needs a transformer or a mamba"
        elif self.reset and isinstance(model, FlatConfig) and model.ngrams:
            reason = "reads n-grams, which look past the newlines of reset"
        else:
            return
        raise UserError(
            f"the entropy model {name} {reason}; name the run of another one with {option}."
        )

    @property
    def entropy_model(self) -> ModelConfig:
        """The entropy model, with exact products; UserError if no checkpoint has been read."""
        if self.model is None:
            raise UserError(
                "model.segmenter entropy_model has no entropy model; name the run of one with "
                "--model.segmenter.checkpoint (`bytelm train entropy_tiny` trains one)."
            )
        kernels = {"attention": "xla"} if isinstance(self.model, BlocksConfig) else {}
        return replace(self.model, compute_dtype="float32", **kernels)

    def build_alone(self, rngs: nnx.Rngs) -> EntropySegmenter:
        """The segmenter for its entropies alone."""
        return EntropySegmenter(self, 1, Needs("start"), rngs=rngs)

    @property
    def entropy_rule(self) -> EntropyRule:
        return EntropyRule(self.threshold, self.rise, self.longest_patch)

    def own_ids(self, ids: jax.Array) -> jax.Array:
        """The entropy model's ids of bytelm's, int32 `[B, T]`."""
        if not self.published_symbols:
            return ids
        special = jnp.array([PUBLISHED_END, PUBLISHED_START, 0])  # of END, START and PAD
        return jnp.where(ids < BYTES, ids + PUBLISHED_FIRST, special[jnp.maximum(ids - BYTES, 0)])

    @property
    def default_bytes_per_slot(self) -> float:
        return max(1.0, self.bytes_per_patch / 1.25)

    @property
    def longest(self) -> int | None:
        return self.longest_patch

    def forward_flops(self, width: int, length: float) -> float:
        return self.frozen_flops(length)

    def frozen_flops(self, length: float) -> float:
        return self.entropy_model.forward_flops(int(length))


def entropy_patches(model: ModelConfig) -> EntropyModelPatches | None:
    """The segmenter of a model that has an entropy model; only the one for bytes can."""
    found: list[EntropyModelPatches] = []

    def keep(patches: EntropyModelPatches) -> EntropyModelPatches:
        found.append(patches)
        return patches

    mapped(model, EntropyModelPatches, keep)
    return next(iter(found), None)
