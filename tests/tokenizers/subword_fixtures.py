"""Tiny tokenizers of each kind, trained on one text."""

import json
from collections.abc import Iterator

import pytest
import tokenizers
from sentencepiece import SentencePieceTrainer
from tokenizers import decoders, models, normalizers

from bytelm.data.config import DataConfig, Files
from bytelm.data.open_data import OpenData, training_text
from bytelm.tokenizers.tokenizer import Tokenizer
from bytelm.tokenizers.training import train_tokenizer

SIZES = {"bpe": 300, "superbpe": 300, "unigram": 298}
TRANSITION = 0.9


def texts_of(config: DataConfig, max_bytes: int = 10**6) -> Iterator[bytes]:
    """Texts of the train split to train a tokenizer on."""
    return training_text(OpenData(config), max_bytes)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Lines of a few words in three scripts, with numbers and tabs."""
    directory = tmp_path_factory.mktemp("corpus")
    phrases = (
        "of the text|of the text|of the мир|and the|texts of|время|日本|日本語|don't|<s>|(2024)"
    )
    words = [*phrases.split("|"), "\t1,234"]
    documents = []
    for number in range(40):
        places = [(3 * number + i * i * (number % 5 + 1)) % len(words) for i in range(60)]
        lines = [" ".join(words[place] for place in places[i : i + 9]) for i in range(0, 60, 9)]
        documents.append(".\n".join(lines) + "\n\n")
    path = directory / "words.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return DataConfig(
        source=Files(files=(str(path),), held_out=0.2), cache_dir=str(directory / "cache")
    )


@pytest.fixture(scope="session")
def trained(corpus: DataConfig) -> dict[str, Tokenizer]:
    """A tokenizer of each kind that can be trained."""
    return {
        kind: Tokenizer(
            f"{kind}.file", train_tokenizer(texts_of(corpus), kind, size, transition=TRANSITION)
        )
        for kind, size in SIZES.items()
    }


def with_byte_fallback(model: models.Model) -> tokenizers.Tokenizer:
    """A tokenizer such as Llama's, but without a space before each text."""
    library = tokenizers.Tokenizer(model)
    library.normalizer = normalizers.Replace(" ", "\u2581")
    library.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    library.add_tokens(["the text"])
    return library


@pytest.fixture(scope="session")
def foreign() -> dict[str, Tokenizer]:
    """Tokenizers with byte fallback, such as others publish."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["\u2581", "t", "h", "e", "a", "\u2581t", "he", "\u2581the", "\n", "<"]
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he")]
    bpe = models.BPE(
        {name: number for number, name in enumerate(names)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    unigram = models.Unigram(
        [(name, -float(len(name) < 3) - 1) for name in names], unk_id=0, byte_fallback=True
    )
    return {
        name: Tokenizer(f"{name}.json", with_byte_fallback(model).to_str().encode())
        for name, model in (("llama", bpe), ("fallback_unigram", unigram))
    }


@pytest.fixture(scope="session")
def unigram_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Unigram model of a few words in three scripts."""
    path = tmp_path_factory.mktemp("unigram") / "words.model"
    words = "the text and of texts мир миру время 日本 日本語 語".split()
    lines = [" ".join(words[(3 * i + j * j) % len(words)] for j in range(7)) for i in range(99)]
    with open(path, "wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    return str(path)
