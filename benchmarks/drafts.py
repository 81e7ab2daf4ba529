"""Bytes per second of generation with and without drafts, for a trained checkpoint.

    python -m benchmarks.drafts --checkpoint runs/flat --texts prose.txt code.py --draft heads

Random weights accept nothing, so this needs a trained model. Each row continues a passage of a
text, the same for all contenders, which take turns. They write the same bytes, but where rounding
decides between two likeliest ones. Reading the passages is in the times.

A small model that always takes the likeliest byte repeats itself, which makes drafts better than
they are in texts worth reading. So the table says how much of what was written had been there
before, and `--temperatures 0.8` shows the same for sampled texts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

import bytelm
from benchmarks.tables import show
from bytelm.api import LoadedModel
from bytelm.inference.draft_choice import DraftKind
from bytelm.training.timing import in_turns

REPEATED = 16
"""Bytes of a repetition."""


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    checkpoint: Path
    """The run directory of the model."""
    texts: tuple[Path, ...]
    """Files of text that the model has not seen; their formats are ignored."""
    draft_checkpoint: Path | None = None
    """The run directory of a small model that drafts too."""
    draft: tuple[DraftKind, ...] = ("stale", "lookup")
    """What drafts, each against no drafts."""
    draft_lengths: tuple[int, ...] = (8, 16)
    """Drafts of a round at most; each is a contender."""
    bytes: int = 384
    """Bytes that each row gets."""
    prompt_bytes: int = 127
    """Bytes that each row starts with."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """Rows generated together."""
    temperatures: tuple[float, ...] = (0.0,)
    """Of the sampling; 0 takes the likeliest byte."""
    rounds: int = 3
    """Turns that each contender takes, after `warm_up` that are not timed."""
    warm_up: int = 6
    """Turns to compile in, and to find how many drafts pay."""


@dataclass(frozen=True)
class Setting:
    """What is written, and how."""

    name: str
    prompts: list[bytes]
    temperature: float


def main(arguments: Arguments) -> None:
    """Measures, and shows a table for each text and temperature."""
    contenders = make_contenders(arguments)
    for path in arguments.texts:
        for temperature in arguments.temperatures:
            rows: list[tuple[str, ...]] = []
            for size in arguments.batch_sizes:
                prompts = passages(path.read_bytes(), size, arguments.prompt_bytes)
                rows += measure(arguments, contenders, Setting(path.name, prompts, temperature))
            title = f"{arguments.checkpoint.name}, {path.name}, temperature {temperature}"
            title += f": {arguments.bytes} bytes a row after {arguments.prompt_bytes}"
            seen = "bytes a round (ms), by drafts"
            show(title, ("", "batch", "bytes/s", "x none", "written before", seen), rows)


Contenders = dict[str, tuple[LoadedModel, dict[str, object]]]
"""Of each drafter a model, which remembers what it measured, and its options."""


def make_contenders(arguments: Arguments) -> Contenders:
    """One without drafts, and one for each drafter and length."""
    small = arguments.draft_checkpoint and bytelm.load(arguments.draft_checkpoint)
    found: Contenders = {"none": (bytelm.load(arguments.checkpoint), {})}
    lengths = sorted(arguments.draft_lengths)
    for kind in arguments.draft:
        for length in lengths:
            model = bytelm.load(arguments.checkpoint)
            found[f"{kind} {length}"] = model, {"draft": kind, "draft_length": length}
    for length in lengths if small else ():
        model = bytelm.load(arguments.checkpoint)
        found[f"small model {length}"] = model, {"draft_model": small, "draft_length": length}
    return found


def passages(text: bytes, count: int, size: int) -> list[bytes]:
    """So many passages of a text, evenly spread."""
    step = max(1, (len(text) - size) // count)
    return [text[start : start + size] for start in range(0, step * count, step)]


def measure(
    arguments: Arguments, contenders: Contenders, setting: Setting
) -> Iterator[tuple[str, ...]]:
    """The rows of the table for one batch."""

    def run_of(model: LoadedModel, options: dict[str, object]) -> Callable[[], list[bytes]]:
        for length in model.draft_lengths:
            length.measured.clear()  # of another text

        def run() -> list[bytes]:
            for length in model.draft_lengths:
                length.compiling = 0.0  # as in a long run, in which compiling pays
            return model.generate(
                setting.prompts,
                max_bytes=arguments.bytes,
                temperature=setting.temperature,
                **options,
            )

        return run

    runs = {name: run_of(*contender) for name, contender in contenders.items()}
    timings = in_turns(runs, rounds=arguments.rounds, warm_up=arguments.warm_up)
    written, plain = runs["none"](), timings["none"].median
    for name, timing in timings.items():
        texts = runs[name]()
        yield (
            name if texts == written else f"{name} (other bytes)",
            f"{len(texts)}",
            f"{sum(map(len, texts)) / timing.median:,.0f}",
            f"{plain / timing.median:.2f}",
            f"{repeated(setting.prompts, texts):.0%}",
            seen(contenders[name][0]),
        )


def repeated(prompts: Sequence[bytes], texts: Sequence[bytes]) -> float:
    """The share of the bytes written that end a string which is in the row before it too."""
    count = 0
    for prompt, text in zip(prompts, texts, strict=True):
        whole = prompt + text
        for end in range(max(len(prompt), REPEATED) + 1, len(whole) + 1):
            count += whole[end - REPEATED : end] in whole[: end - 1]
    return count / max(1, sum(map(len, texts)))


def seen(model: LoadedModel) -> str:
    """The bytes that a row got in a round and its milliseconds, for the numbers of drafts tried."""
    return ", ".join(
        f"{drafts}: {measured.symbols:.2f} ({1000 * measured.cost:.2f})"
        for length in model.draft_lengths
        for drafts, measured in sorted(length.measured.items())
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
