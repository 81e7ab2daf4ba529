"""Whether the data of a config supply what its model needs."""

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES
from bytelm.models import ModelConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.training.experiment import ExperimentConfig


def check_supply(config: ExperimentConfig, tokenizer: Tokenizer | None) -> None:
    """Raises UserError if the data do not supply what the model needs.

    Args:
        config: of the model and the data.
        tokenizer: of the data; None if its symbols are bytes.
    """
    model, data = config.model, config.data
    has_encoder = isinstance(model, EncoderDecoderConfig)
    task = data.task
    if has_encoder and not task.has_encoder:
        raise UserError(
            f"the family {model.family} has an encoder, and data.task is {task.kind}; choose a "
            "task with inputs, such as --data.task span_corruption."
        )
    if not has_encoder and task.has_encoder:
        raise UserError(
            f"data.task is {task.kind}, and the family {model.family} has no encoder to read its "
            "inputs; choose --data.task next_byte, or a preset of byt5 or mrt5."
        )
    size = BYTES if tokenizer is None else tokenizer.size
    if model.symbols.size != size:
        raise UserError(
            f"the model is of {_symbols(model.symbols.size)}, and the text is of {_symbols(size)}; "
            f"{_advice(model, size)}."
        )
    if model.needs_unigram and task.unigram is None:
        raise UserError(
            "the model's boundaries are those of a SentencePiece Unigram model, and there is none: "
            "make one with `bytelm data unigram` and name it with --data.unigram."
        )
    if model.scripts and model.scripts != data.scripts:
        raise UserError(
            f"the model has bands for the scripts {', '.join(model.scripts)}, and data.scripts is "
            f"{', '.join(data.scripts) or 'empty'}; give --data.scripts {' '.join(model.scripts)}, "
            "and say with --data.script-key or --data.script which one a document has."
        )


def _symbols(size: int) -> str:
    return "bytes" if size == BYTES else f"{size} tokens"


def _advice(model: ModelConfig, size: int) -> str:
    if not isinstance(model, TransformerConfig):
        return f"the family {model.family} is of bytes alone: leave out --data.tokenizer"
    named = "name its tokenizer with --data.tokenizer, or " if size == BYTES else ""
    return f"{named}give --model.vocabulary {size}"
