"""The forms of a model's parameters: for scoring, for generation."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.inference.generation import Generator
from bytelm.inference.marginal.marginal import ByteMarginal
from bytelm.inference.row_lengths import SHORTEST
from bytelm.inference.scoring import Scorer, empty_batch
from bytelm.inference.transduction import Transducer
from bytelm.models.contract import Batch
from bytelm.nn.mesh import MeshConfig
from bytelm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Forms:
    """The parameters in the form that each use needs, made when first needed."""

    graphdef: nnx.GraphDef
    params: Any
    tokenizer: Tokenizer | None
    has_encoder: bool
    mesh: MeshConfig  # of the scorer

    def on(self, mesh: MeshConfig) -> "Forms":
        """These parameters with a scorer on another mesh."""
        if self.has_encoder:
            raise UserError("a model with an encoder is evaluated on one device; leave out --mesh.")
        return dataclasses.replace(self, mesh=mesh)

    @functools.cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.graphdef, self.params, self.mesh)

    @functools.cached_property
    def generator(self) -> Generator:
        if self.has_encoder:
            return Transducer(self.graphdef, self.params)
        return Generator(self.graphdef, self.params, tokenizer=self.tokenizer)

    def byte_marginal(self, covers: int | None, context: int) -> ByteMarginal:
        """As `LoadedModel.byte_marginal`, with windows of `context` symbols."""
        if self.tokenizer is None:
            raise UserError(
                "the model's symbols are bytes, whose probabilities need no sum over "
                "tokenisations; score or generate without it."
            )
        decoding = self.generator
        return ByteMarginal(
            decoding.graphdef, decoding.params, self.tokenizer, covers=covers, context=context
        )

    @functools.cached_property
    def has_patches(self) -> bool:
        def starts(params: Any, batch: Batch) -> Any:
            return nnx.merge(self.graphdef, params)(batch).patch_starts

        return jax.eval_shape(starts, self.params, empty_batch(1, SHORTEST)) is not None
