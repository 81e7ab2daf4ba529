"""The codec of a checkpoint."""

from typing import Any

from bytelm.codec.codec import Codec
from bytelm.core.config_json import to_dict
from bytelm.core.errors import UserError
from bytelm.inference.generation import Generator
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.checkpoints.digests import digest_json, digest_of_all


def codec_of(saved: SavedModel, params: Any, decoding: Generator, context: int) -> Codec:
    """Compresses files with a checkpoint.

    Args:
        saved: the checkpoint, whose own parameters are not read.
        params: its parameters, perhaps rounded.
        decoding: the same model in its form for decoding.
        context: symbols of a window.

    Raises:
        UserError: for a family with an encoder.
    """
    model, tokenizer = saved.config.model, saved.tokenizer
    if isinstance(model, EncoderDecoderConfig):
        raise UserError(
            f"the family {model.family} gives probabilities of targets, not of files; compress "
            "with a checkpoint of a decoder, such as transformer or spacebyte."
        )
    made_of = {
        "model": to_dict(model),
        "params": digest_of_all(params),
        "tokenizer": tokenizer and tokenizer.digest,
    }
    return Codec(
        decoding.graphdef,
        decoding.params,
        checkpoint=digest_json("model", made_of)["model"][:16],
        step=saved.step,
        context=context,
        tokenizer=tokenizer,
    )
