"""Trains subword tokenizers on texts: BPE, SuperBPE (arXiv 2503.13423) and Unigram."""

import io
import json
import re
from collections.abc import Iterable, Iterator

import numpy as np
from sentencepiece import SentencePieceTrainer
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from bytelm.core.errors import UserError
from bytelm.core.vocabulary import BYTES
from bytelm.tokenizers import Kind
from bytelm.tokenizers.cutting import LINES, WORDS
from bytelm.tokenizers.tokenizer import CHARACTERS
from bytelm.tokenizers.unigram import INVALID_BYTE

LONGEST = 1000
"""Most symbols of a word, or of a stretch of SuperBPE, in training. A merge takes time for each
symbol after it, so that a text without spaces would take hours."""
PART = rf"[\s\S]{{1,{LONGEST}}}"
FIRST_CODE = 0x10000
"""Stage 2 of SuperBPE encodes token n as the character FIRST_CODE + n, beyond the surrogates."""
SENTENCE = re.compile("\n{0,2}[^\n\t\0\u2585\udc80-\udcff]{1,1000}")
"""A line, or part of a long one, after its line breaks: SentencePiece drops those at the end. Tabs,
NUL, its own mark U+2585 and bytes that are not UTF-8 are left out."""
CHARACTER_COVERAGE = 0.9995
"""Share of the characters that pieces cover; a run of rarer ones is one piece."""
THREADS = 8
"""Fixed, because the model depends on it."""


def train_tokenizer(
    texts: Iterable[bytes], kind: Kind, size: int, *, transition: float = 0.8
) -> bytes:
    """Trains a tokenizer without special tokens: tokenizer.json, or a SentencePiece model.

    Text is not normalised, and the same text gives the same file.

    Args:
        texts: to train on.
        kind: `bpe`: byte-level, within words; `superbpe`: then also across words, within lines;
            `unigram`: SentencePiece's, with byte fallback.
        size: number of tokens, including the 256 bytes (and SentencePiece's unknown piece).
        transition: share of the tokens that SuperBPE makes within words.

    Raises:
        UserError: for a size that these texts do not allow.
    """
    if size < BYTES:
        raise UserError(f"--size is {size}; choose {BYTES} or more, since each byte is a token.")
    if not 0 <= transition <= 1:
        raise UserError(f"--transition is {transition}; choose from 0 to 1.")
    if kind == "unigram":
        return train_unigram(texts, size, any_bytes=True)
    stretches = [
        stretch
        for text in texts
        for stretch in INVALID_BYTE.split(text.decode(errors="surrogateescape"))
    ]
    asked = size if kind == "bpe" else max(BYTES, round(size * transition))
    library = _within_words(stretches, asked)
    if kind == "superbpe" and library.get_vocab_size() == asked:
        library, asked = _across_words(library, stretches, size), size
    if library.get_vocab_size() < asked:
        raise UserError(
            f"--size is {size}, and this text gives {library.get_vocab_size()} tokens, since a new "
            "one takes a pair that occurs twice; choose a smaller --size, or train on more text."
        )
    return library.to_str().encode()


def _within_words(texts: Iterable[str], size: int) -> Library:
    """Byte-level BPE of WORDS, of at most `size` tokens."""
    library = _byte_level(models.BPE(), WORDS, PART)
    library.train_from_iterator(texts, _trainer(size, list(CHARACTERS.values())))
    library.pre_tokenizer = _byte_level(library.model, WORDS).pre_tokenizer
    return library


def _across_words(first: Library, texts: Iterable[str], size: int) -> Library:
    """Stage 2 of SuperBPE (Section 2.2): BPE continues from the tokens of `first`, within LINES."""
    first.pre_tokenizer = _byte_level(first.model, LINES).pre_tokenizer
    model = json.loads(first.to_str())["model"]
    alphabet = [chr(FIRST_CODE + number) for number in range(len(model["vocab"]))]
    tokens = dict(zip(alphabet, sorted(model["vocab"], key=model["vocab"].get), strict=True))
    second = Library(models.BPE())
    second.train_from_iterator(_in_code(first, texts), _trainer(size, alphabet))
    vocabulary = model["vocab"]
    merges = [(left, right) for left, right in model["merges"]]
    for pair in json.loads(second.to_str())["model"]["merges"]:
        left, right = ("".join(tokens[code] for code in half) for half in pair)
        merges.append((left, right))
        vocabulary.setdefault(left + right, len(vocabulary))
    return _byte_level(models.BPE(vocab=vocabulary, merges=merges), LINES)


def _in_code(first: Library, texts: Iterable[str]) -> Iterator[str]:
    """The stretches in which stage 2 merges, each token as one character."""
    for text in texts:
        encoding = first.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, "<u4") + np.uint32(FIRST_CODE)
        code = ids.tobytes().decode("utf-32-le")
        cuts = np.flatnonzero(np.diff(np.array(encoding.word_ids, np.int64))) + 1
        for begin, end in zip([0, *cuts], [*cuts, len(code)], strict=True):
            for part in range(begin, end, LONGEST):
                yield code[part : min(part + LONGEST, end)]


def _byte_level(model: models.BPE, *patterns: str) -> Library:
    """A byte-level tokenizer that first cuts text by each of the patterns."""
    library = Library(model)
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    return library


def _trainer(size: int, alphabet: list[str]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )


def train_unigram(texts: Iterable[bytes], pieces: int, *, any_bytes: bool = False) -> bytes:
    """Trains a Unigram model, serialized by SentencePiece; text is not normalised.

    Args:
        texts: to train on.
        pieces: most pieces of the model; exactly so many with `any_bytes`.
        any_bytes: whether each of the 256 bytes is a piece too, so that any text can be written.

    Raises:
        UserError: for fewer pieces than the text has characters, or, with `any_bytes`, more than
            the text gives.
    """
    sentences: list[str] = []
    for text in texts:
        sentences += SENTENCE.findall(text.decode(errors="surrogateescape"))
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=pieces,
            hard_vocab_limit=any_bytes,
            byte_fallback=any_bytes,
            character_coverage=CHARACTER_COVERAGE,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            bos_id=-1,
            eos_id=-1,
            num_threads=THREADS,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        # SentencePiece goes on with advice on its own options.
        reason = str(error).rpartition("] ")[2].partition(" Increase")[0].rstrip(".")
        reason = reason.replace(". Please set", ": set")
        option = "--size" if any_bytes else "--pieces"
        raise UserError(
            f"SentencePiece cannot make {pieces} pieces of this text ({reason}); choose another "
            f"number with {option}."
        ) from error
    return model.getvalue()
