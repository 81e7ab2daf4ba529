"""Samples of a model while it is trained."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bytelm.core.vocabulary import BYTES
from bytelm.inference.generation import Generator
from bytelm.inference.transduction import Transducer
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.nn.mesh import single_device_mesh
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.program import TrainProgram
from bytelm.training.validation import Validation

INPUTS = 3
"""How many inputs of the validation text a sample shows with their targets."""


def on_one_device(params: Any, mesh: Mesh) -> Any:
    """A copy of all parameters on a device of this process; all processes have to call this."""
    whole = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), params)
    gathered = jax.jit(lambda params: params, out_shardings=whole)(params)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), gathered)


class Sampler:
    """Writes samples of at most `train.sample_bytes` with parameters on one device."""

    def __init__(
        self,
        config: ExperimentConfig,
        program: TrainProgram,
        tokenizer: Tokenizer | None,
        validation: Validation,
    ):
        self._config, self._program = config, program
        self._tokenizer, self._validation = tokenizer, validation

    def __call__(self, params: Any, step: int) -> str:
        """A text from the empty prompt; with an encoder, the likeliest targets of a few inputs."""
        # Generation runs on one device, without the mesh of the run.
        with jax.set_mesh(single_device_mesh()):
            if isinstance(self._config.model, EncoderDecoderConfig):
                return self._targets(params)
            generator = Generator(self._program.graphdef, params, tokenizer=self._tokenizer)
            count = self._config.train.sample_bytes
            text = generator.generate([b""], max_bytes=count, seed=step)[0]
            return text.decode("utf-8", "replace")

    def _targets(self, params: Any) -> str:
        first = next(self._validation.batches())
        inputs = [row[row < BYTES].astype(np.uint8).tobytes() for row in first.inputs[:INPUTS]]
        most = min(self._config.train.sample_bytes, self._config.data.row_length)
        targets = Transducer(self._program.graphdef, params).greedy(inputs, max_bytes=most)
        both = (b"%s -> %s" % pair for pair in zip(inputs, targets, strict=True))
        return "\n".join(text.decode("utf-8", "replace") for text in both)
