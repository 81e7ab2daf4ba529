"""Options of the families whose stacks are causal Transformer blocks (`bytelm.nn.block`)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import PAD
from bytelm.models.contract import ModelConfig
from bytelm.models.draft import DraftConfig, NoDraft
from bytelm.models.embedding import SymbolEmbedding
from bytelm.nn.attention.attention import AttentionImplementation, AttentionMask
from bytelm.nn.block import BlockConfig, StackedConfig
from bytelm.nn.mamba2 import Mamba2Config
from bytelm.nn.mlp import MLPKind
from bytelm.nn.ngrams import LONGEST, MULTIPLIERS, NGrams
from bytelm.nn.stack import Outputs, Remat, Stack


@dataclass(frozen=True)
class BlocksConfig(ModelConfig):
    """Options of all blocks of a model, and of how their stacks run."""

    head_width: int = 64
    """Channels of one attention head; even, for the rotary pairs."""
    mlp: MLPKind = "swiglu"
    """Kind of MLP."""
    qk_norm: bool = True
    """Whether each head's queries and keys are normalised."""
    rope_theta: float | None = 10_000.0
    """Base of the rotary wavelengths; None for no rotation."""
    scan: bool | None = None
    """Scan over the blocks of a stack, or unroll them; None scans above 12 blocks."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, all but matrix products and attention
    ("dots"), or "full"."""
    attention: AttentionImplementation = "auto"
    """Attention back end; "auto" picks the fastest exact one for the machine."""
    ngrams: tuple[int, ...] = ()
    """Sizes of the n-grams of bytes whose hashed embeddings are added to each byte's, such as 3 4 5
    6 7 8 (arXiv 2412.09871); none for no n-grams."""
    ngram_functions: int = 1
    """Hash functions, each with a table for every size."""
    ngram_rows: int = 500_002
    """Rows of each table."""
    draft: DraftConfig = field(default_factory=NoDraft)
    """Heads that predict symbols further ahead, for faster decoding."""

    is_flat: ClassVar[bool] = False
    """Whether one stack of blocks reads every symbol."""

    def __post_init__(self) -> None:
        self.require_positive("head_width")
        self.require("it must be above 0", lambda x: x > 0, "rope_theta")
        self._check_ngrams()
        self.draft.check(self)
        if self.rope_theta is not None:
            self.require("rotary positions need it even", lambda x: x % 2 == 0, "head_width")

    def _check_ngrams(self) -> None:
        sizes, most = self.ngrams, len(MULTIPLIERS)
        if len(set(sizes)) < len(sizes) or not all(2 <= size <= LONGEST for size in sizes):
            raise UserError(
                f"model.ngrams is {sizes}; give different sizes from 2 to {LONGEST}, or none."
            )
        self.require_positive("ngram_rows")
        self.require(f"it must be from 1 to {most}", lambda x: 1 <= x <= most, "ngram_functions")
        total = self.ngram_functions * len(sizes) * self.ngram_rows
        if total >= 2**31:
            raise UserError(
                f"model.ngram_rows is {self.ngram_rows}, which makes {total} rows of all tables; "
                "there must be less than 2**31."
            )

    @property
    def head_shape(self) -> tuple[int, int]:
        """Channels of the vectors that the head reads, and its outputs; draft heads need them."""
        raise UserError(
            f"the family {self.family} cannot have draft heads; leave out model.draft, or give its "
            "config a head_shape and let its model call build_draft."
        )

    def draft_blocks(self, depth: int, window: int | None) -> BlockConfig:
        """The blocks of draft heads; a window of None is that of the blocks over symbols."""
        window = window or getattr(self, "window", None)
        return self.block(self.head_shape[0], depth, AttentionMask(window=window))

    def frozen_by_draft(self, length: int, patches: float | None) -> float:
        """`frozen_flops` where draft heads alone may be trained."""
        return 0.0 if self.draft.train_model else self.forward_flops(length, patches)

    def draft_flops(self, sequence_length: int) -> float:
        return self.draft.forward_flops(self, sequence_length)

    @property
    def lookback(self) -> int:
        """How many symbols before the next one a model's embedding still reads."""
        return max(self.ngrams, default=1) - 1

    def build_embedding(
        self, size: int, width: int, rngs: nnx.Rngs, scale: float = 1.0
    ) -> SymbolEmbedding:
        """The embedding of symbols, with the n-grams that `ngrams` asks for."""
        ngrams = None
        if self.ngrams:
            ngrams = NGrams(self.ngrams, self.ngram_functions, self.ngram_rows, width, rngs=rngs)
        return SymbolEmbedding(size, width, ngrams, rngs=rngs, scale=scale)

    def no_symbols(self, rows: int) -> jax.Array | None:
        """`Symbols.before` at the start of rows; None if the embedding does not look back."""
        return jnp.full((rows, self.lookback), PAD, jnp.int32) if self.lookback else None

    def require_heads(self, *names: str) -> None:
        """Raises UserError unless the named widths are multiples of `head_width`."""
        self.require_positive(*names)
        hint = ", or set model.heads" if hasattr(self, "heads") else ""
        for name in names:
            if getattr(self, name) % self.head_width:
                raise UserError(
                    f"model.{name} {getattr(self, name)} is no multiple of model.head_width "
                    f"{self.head_width}; change one of them{hint}."
                )

    def require_divisor(self, name: str, heads: int) -> None:
        """Raises UserError unless the named field is None or divides the query heads."""
        value = getattr(self, name)
        if value is not None and heads % value:
            raise UserError(
                f"model.{name} {value} does not divide the {heads} query heads; choose a divisor."
            )

    def block(
        self,
        width: int,
        depth: int,
        mask: AttentionMask,
        *,
        heads: int | None = None,
        key_value_heads: int | None = None,
        mlp_width: int | None = None,
        **options: Any,
    ) -> BlockConfig:
        """The blocks of one stack; None takes heads of `head_width`, and the MLP's default."""
        heads = heads or width // self.head_width
        return BlockConfig(
            width=width,
            depth=depth,
            heads=heads,
            key_value_heads=key_value_heads or heads,
            head_width=self.head_width,
            mlp=self.mlp,
            mlp_width=mlp_width,
            qk_norm=self.qk_norm,
            rope_theta=self.rope_theta,
            mask=mask,
            implementation=self.attention,
            **options,
        )

    def stack(self, block: StackedConfig, rngs: nnx.Rngs, outputs: Outputs = "last") -> Stack:
        """A stack of these blocks, with the options `scan` and `remat`."""
        return Stack(block, rngs=rngs, scan=self.scan, remat=self.remat, outputs=outputs)


@dataclass(frozen=True)
class MixedBlocksConfig(BlocksConfig):
    """Options of the families whose stacks may have Mamba-2 blocks, with heads of `head_width`."""

    expansion: int = 2
    """Channels inside a Mamba-2 block, as a multiple of those of its stack."""
    state_width: int = 128
    """Channels of its keys and queries: a head's state has head_width x state_width numbers."""
    convolution_width: int = 4
    """Positions that its convolution sees."""
    chunk: int = 64
    """Positions that it computes at a time; this only changes speed and rounding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("expansion", "state_width", "convolution_width", "chunk")

    def require_mamba_heads(self, where: str, width: int) -> None:
        """Raises UserError unless Mamba-2 blocks of this width, an option `where`, have heads."""
        if self.expansion * width % self.head_width:
            raise UserError(
                f"model.expansion x {where} is {self.expansion * width}, no multiple of "
                f"model.head_width {self.head_width}; change one of them."
            )

    def mamba_block(self, width: int, mlp_width: int | None = None, **options: Any) -> Mamba2Config:
        """The Mamba-2 blocks of one stack, with an MLP, and depth 1 for a `Layout` to change."""
        return Mamba2Config(
            width=width,
            depth=1,
            mlp=self.mlp,
            mlp_width=mlp_width,
            inner=self.expansion * width,
            head_width=self.head_width,
            state_width=self.state_width,
            convolution_width=self.convolution_width,
            chunk=self.chunk,
            **options,
        )
