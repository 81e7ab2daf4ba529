"""The tokenizer.json of a model for others' programs, in which START and END are tokens."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from bytelm.core.errors import UserError
from bytelm.tokenizers.tokenizer import CHARACTERS, Tokenizer

NAME = "<|endoftext|>"
"""Of the token that a document starts and ends with, in a tokenizer that has none."""


def tokenizer_json(tokenizer: Tokenizer | None, end: int) -> bytes:
    """The content of a tokenizer.json that has the token `end`.

    It is the file that the tokenizer was read from, if that has the token. If not, the token is
    added as a special one, with which each text starts.

    Args:
        tokenizer: None where symbols are bytes, which become the tokens 0 to 255.

    Raises:
        UserError: for a SentencePiece model, and one to which the token cannot be added.
    """
    if tokenizer is None:
        library = _of_bytes()
    elif not tokenizer.content.lstrip().startswith(b"{"):
        raise UserError(
            f"the model's tokenizer {tokenizer.path} is a SentencePiece model, and the format "
            "needs a tokenizer.json."
        )
    elif end < tokenizer.size:
        return tokenizer.content
    else:
        library = tokenizers.Tokenizer.from_buffer(tokenizer.content)
    name, number = NAME, 0
    while library.token_to_id(name) is not None:
        number += 1
        name = f"<|endoftext{number}|>"
    library.add_special_tokens([name])
    if library.token_to_id(name) != end:
        raise UserError(
            f"the tokenizer {tokenizer and tokenizer.path} has gaps between its ids, so that no "
            f"token {end} can be added to it for START and END."
        )
    library.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", special_tokens=[(name, end)]
    )
    return library.to_str(pretty=True).encode()


def token_name(content: bytes, number: int) -> str | None:
    """The name of a token in a tokenizer.json."""
    return tokenizers.Tokenizer.from_buffer(content).id_to_token(number)


def _of_bytes() -> tokenizers.Tokenizer:
    bpe = models.BPE({character: byte for byte, character in CHARACTERS.items()}, [])
    library = tokenizers.Tokenizer(bpe)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    return library
