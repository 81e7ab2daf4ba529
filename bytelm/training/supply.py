"""Whether the data of a config supply what its model needs."""

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES
from bytelm.data.rows import open_tokenizer
from bytelm.models import ModelConfig
from bytelm.models.encoder_decoder import EncoderDecoderConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.experiment import ExperimentConfig


def check_supply(config: ExperimentConfig) -> None:
    """Raises UserError if the data do not supply what the model needs."""
    model, data = config.model, config.data
    has_encoder = isinstance(model, EncoderDecoderConfig)
    if has_encoder and data.task == "next_byte":
        raise UserError(
            f"the family {model.family} has an encoder, and data.task is next_byte; choose a task "
            "with inputs, such as --data.task span_corruption."
        )
    if not has_encoder and data.task != "next_byte":
        raise UserError(
            f"data.task is {data.task}, and the family {model.family} has no encoder to read its "
            "inputs; choose --data.task next_byte, or a preset of byt5 or mrt5."
        )
    tokenizer = open_tokenizer(data)
    size = BYTES if tokenizer is None else tokenizer.size
    if model.symbols.size != size:
        raise UserError(
            f"the model is of {_symbols(model.symbols.size)}, and the text is of {_symbols(size)}; "
            f"{_advice(model, size)}."
        )
    if model.needs_unigram and data.unigram is None:
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
