"""Patterns of tokenizers, and positions at which cutting a long text changes none of its tokens.

There are two kinds of such positions:

- Between words or lines, for tokenizers that first cut text by a known pattern. Each pattern reads
  text from left to right without looking back, ends a match at such a position, and finds the same
  matches before it if the text ends there.
- Between two characters that are neighbours in no token, for tokenizers that cut nothing first. No
  token crosses the position, so the merges (or the best pieces) on either side are independent.
  SentencePiece adds scores in float32: if two ways to cut a text have almost equal scores, its
  choice may depend on the text before. Rounding errors are smaller in parts.
"""

import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""GPT-4's pattern; in addition marks count as letters, which many scripts need."""
LINES = r"\p{N}{1,3}|[^\r\n\p{N}]+(?:\s*[\r\n]+)?|\s*[\r\n]+"
"""Lines with their line breaks, and digits as above; every cut is a cut of WORDS too."""
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT_4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORD_PATTERNS = (WORDS, GPT_2, LLAMA_3, QWEN_2, GPT_4O)
"""These cut between a letter and a space before another letter, and after a line break between a
visible character and a letter."""
LINE_PATTERNS = (LINES,)
"""These cut only after such a line break."""

LONGEST = 2**18
"""Characters that are tokenised at once, which takes about 30 MB of memory."""
SAID_FROM = 2**22
"""Characters that cannot be cut, from which a warning is given."""
MEMORY = 110
"""Bytes of memory that a library takes for each character."""
FindCut = Callable[[str, int], int | None]
"""Finds the first possible cut of a text from a position on; None if there is none."""
SPACES_MARKED = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
"""The normalizer that only replaces spaces by their mark."""
_LINE = re.compile(r"(?<=\S\n)(?=[^\W\d_])")
_WORD_OR_LINE = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])|(?<=\S\n)(?=[^\W\d_])")

logger = logging.getLogger(__name__)


def stretches(text: str, find_cut: FindCut | None) -> Iterator[str]:
    """Cuts a text into parts of about `LONGEST` characters, which are tokenised separately."""
    begin = 0
    while len(text) - begin > LONGEST:
        cut = None if find_cut is None else find_cut(text, begin + LONGEST)
        if cut is None:
            break
        yield text[begin:cut]
        begin = cut
    rest = len(text) - begin
    if rest >= SAID_FROM:
        logger.warning(
            "%.1f million characters without a safe position to cut are tokenised at once, which "
            "takes about %.1f GB of memory and cannot be stopped",
            rest / 1e6,
            rest * MEMORY / 1e9,
        )
    yield text[begin:]


def apart_in_tokens(tokens: Iterable[str]) -> FindCut:
    """Cuts between characters that are neighbours in no token; a space is `\u2581` in tokens."""
    known = _neighbours(token.replace("\u2581", " ") for token in tokens)

    def find_cut(text: str, begin: int) -> int | None:
        for position in range(begin, len(text)):
            if text[position - 1 : position + 1] not in known:
                return position
        return None

    return find_cut


def _neighbours(tokens: Iterable[str]) -> set[str]:
    """All pairs of neighbouring characters in tokens."""
    return {"".join(pair) for token in tokens for pair in itertools.pairwise(token)}


def of_hugging_face(description: dict[str, Any]) -> FindCut | None:
    """Finds cuts for a tokenizer.json; None if no cut is known to be safe."""
    added = [token for token in description.get("added_tokens") or [] if not token.get("special")]
    if any(token.get(flag) for token in added for flag in ("lstrip", "rstrip", "single_word")):
        return None
    contents = [token["content"] for token in added]
    model = description["model"]
    cutting = steps(description.get("pre_tokenizer"), "pretokenizers")
    # Such steps cut text only before the mark of a space.
    if all(s["type"] == "Metaspace" and s.get("prepend_scheme") == "never" for s in cutting):
        normalizing = steps(description.get("normalizer"), "normalizers")
        marks_spaces_only = all(step == SPACES_MARKED for step in normalizing)
        if not marks_spaces_only or model.get("type") not in ("BPE", "Unigram"):
            return None
        vocabulary = model["vocab"]
        names = vocabulary if isinstance(vocabulary, dict) else [name for name, _ in vocabulary]
        return apart_in_tokens([*names, *contents])
    pattern = _pattern(cutting)
    if pattern is None or description.get("normalizer") is not None or model.get("type") != "BPE":
        return None
    return _between_words(pattern, contents)


def _between_words(pattern: re.Pattern[str], added: Iterable[str]) -> FindCut:
    within = _neighbours(added)

    def find_cut(text: str, begin: int) -> int | None:
        for match in pattern.finditer(text, begin):
            position = match.start()
            before, after = text[position - 1], text[position]
            # Python's \w includes some numbers, which are no letters in these patterns.
            letters = before + text[position + 1] if after == " " else after
            if letters.isalpha() and before + after not in within:
                return position
        return None

    return find_cut


def steps(part: dict[str, Any] | None, nested: str) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer.json; the key `nested` holds those of a sequence."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for inner in part[nested] for step in steps(inner, nested)]


def _pattern(cutting: list[dict[str, Any]]) -> re.Pattern[str] | None:
    """A pattern of safe cuts for these pre-tokenizers; None if their patterns are unknown."""
    found = []
    for step in cutting:
        kind = step["type"]
        if kind == "ByteLevel":
            found += [_WORD_OR_LINE] * step.get("use_regex", True)
        elif kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            regex = step["pattern"].get("Regex")
            if regex not in WORD_PATTERNS and regex not in LINE_PATTERNS:
                return None
            found.append(_WORD_OR_LINE if regex in WORD_PATTERNS else _LINE)
        elif kind != "Digits":  # cuts only next to digits
            return None
    return found[0] if found else None
