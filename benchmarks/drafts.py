"""Bytes per second of generation with and without drafts, for a trained checkpoint.

    python -m benchmarks.drafts --checkpoint runs/spacebyte --text held_out.txt

Random weights accept nothing, so this needs a trained model. Each row continues a passage of the
text, the same for all contenders, which take turns. They write the same bytes, but where rounding
decides between two likeliest ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

import bytelm
from benchmarks.tables import show
from bytelm.api import LoadedModel
from bytelm.inference.draft_choice import DraftKind
from bytelm.training.timing import in_turns


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    checkpoint: Path
    """The run directory of the model."""
    text: Path
    """A file of text that the model has not seen; its format is ignored."""
    draft_checkpoint: Path | None = None
    """The run directory of a small model that drafts too."""
    draft: tuple[DraftKind, ...] = ("stale", "lookup")
    """What drafts, each against no drafts."""
    draft_length: int = 8
    """Drafts of a round at most."""
    bytes: int = 256
    """Bytes that each row gets."""
    prompt_bytes: int = 256
    """Bytes that each row starts with."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """Rows generated together."""
    temperature: float = 0.0
    """Of the sampling; 0 takes the likeliest byte."""
    rounds: int = 3
    """Turns that each contender takes, after `warm_up` that are not timed."""
    warm_up: int = 2
    """Turns to compile in, and to find how many drafts pay."""


def main(arguments: Arguments) -> None:
    """Measures, and shows a table."""
    rows = []
    for batch_size in arguments.batch_sizes:
        contenders = make_contenders(arguments, batch_size)
        timings = in_turns(
            {name: run for name, (_, run) in contenders.items()},
            rounds=arguments.rounds,
            warm_up=arguments.warm_up,
        )
        plain = timings["none"].median
        for name, timing in timings.items():
            model, run = contenders[name]
            speed = sum(map(len, run())) / timing.median
            rows.append(
                (
                    name,
                    f"{batch_size}",
                    f"{speed:,.0f}",
                    f"{plain / timing.median:.2f}",
                    seen(model),
                )
            )
    title = f"drafts for {arguments.checkpoint.name}: {arguments.bytes} bytes a row"
    show(title, ("", "batch", "bytes/s", "x none", "bytes a round, by drafts"), rows)


def make_contenders(
    arguments: Arguments, batch_size: int
) -> dict[str, tuple[LoadedModel, Callable[[], list[bytes]]]]:
    """A model for each drafter, and what generates with it."""
    text = arguments.text.read_bytes()
    size = arguments.prompt_bytes
    step = max(1, (len(text) - size) // batch_size)
    prompts = [text[start : start + size] for start in range(0, step * batch_size, step)]
    small = arguments.draft_checkpoint and bytelm.load(arguments.draft_checkpoint)

    def contender(draft: DraftKind, small: LoadedModel | None = None):
        model = bytelm.load(arguments.checkpoint)

        def run() -> list[bytes]:
            return model.generate(
                prompts,
                max_bytes=arguments.bytes,
                temperature=arguments.temperature,
                draft=draft,
                draft_length=arguments.draft_length,
                draft_model=small,
            )

        return model, run

    contenders = {draft: contender(draft) for draft in ("none", *arguments.draft)}
    return contenders | ({"small model": contender("none", small)} if small else {})


def seen(model: LoadedModel) -> str:
    """The bytes that a row got in a round, for each number of drafts that was tried."""
    return ", ".join(
        f"{drafts}: {measured.symbols:.2f}"
        for length in model.draft_lengths
        for drafts, measured in sorted(length.measured.items())
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
