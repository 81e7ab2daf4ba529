"""Questions per second of multiple choice: contexts read once, and read again for each choice.

    python -m benchmarks.harness

Loops score one choice after another, in full passes over context and choice or in a decoding state;
batches score several at a time; they all read the context for every choice. The nats of all are
compared. The model has random weights: what is timed does not depend on them.
"""

from dataclasses import dataclass

import numpy as np
import tyro
from flax import nnx

from benchmarks.tables import show
from bytelm.api import LoadedModel
from bytelm.data.config import DataConfig
from bytelm.inference.generation import ROWS
from bytelm.models.contract import ModelConfig
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.training.checkpoints.checkpoint import SavedModel
from bytelm.training.experiment import ExperimentConfig
from bytelm.training.timing import in_turns

PASSES = "a loop of full passes"


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    width: int = 128
    """Channels of the residual stream; of SpaceByte's bytes half as many."""
    depth: int = 4
    """Blocks."""
    spacebyte: bool = False
    """Whether the model is SpaceByte, and no Transformer of bytes."""
    questions: int = 32
    """Questions."""
    choices: int = 4
    """Choices of each."""
    context: int = 500
    """Bytes of a context."""
    shared: int = 0
    """Bytes of it that all contexts have, as examples in the prompt are."""
    longest_choice: int = 40
    """Most bytes of a choice."""
    rounds: int = 3
    """Turns that each contender takes, after one that is not timed."""


def build(arguments: Arguments) -> LoadedModel:
    """The model, with as long a context as the questions need."""
    config: ModelConfig = TransformerConfig(width=arguments.width, depth=arguments.depth)
    if arguments.spacebyte:
        config = SpaceByteConfig(
            local_width=arguments.width // 2,
            global_width=arguments.width,
            local_depth=2,
            global_depth=arguments.depth,
        )
    data = DataConfig(sequence_length=arguments.context + arguments.longest_choice)
    graphdef, state = nnx.split(config.build(nnx.Rngs(0)))
    params = nnx.to_pure_dict(state)
    return LoadedModel(SavedModel(ExperimentConfig(config, data), 0, graphdef, params, {}))


def make_pairs(arguments: Arguments) -> list[tuple[bytes, bytes]]:
    """Every question's choices, of letters and spaces."""
    rng = np.random.default_rng(0)

    def text(size: int) -> bytes:
        return rng.choice(np.frombuffer(b"etaoin shrdlu ", np.uint8), size).tobytes()

    examples, pairs = text(arguments.shared), []
    for _ in range(arguments.questions):
        context = examples + text(arguments.context - arguments.shared)
        sizes = rng.integers(4, arguments.longest_choice, arguments.choices, endpoint=True)
        pairs += [(context, text(int(size))) for size in sizes]
    return pairs


def main(arguments: Arguments) -> None:
    """Measures, and shows a table."""
    model, pairs = build(arguments), make_pairs(arguments)
    contexts, choices = map(list, zip(*pairs, strict=True))
    found: dict[str, np.ndarray] = {}

    def passes() -> None:
        scores = [model.log_probability(*pair, batch_size=1)[0] for pair in pairs]
        found["passes"] = -np.array(scores)

    def steps() -> None:
        scores = [dict(model.score_continuations([pair], rows=1))[0].nats for pair in pairs]
        found["steps"] = np.array(scores)

    def batches() -> None:
        found["batches"] = -model.log_probability(contexts, choices, batch_size=ROWS)

    def shared() -> None:
        scores = dict(model.score_continuations(pairs))
        found["shared"] = np.array([scores[number].nats for number in range(len(pairs))])

    contenders = {
        PASSES: passes,
        "a loop of decoding states": steps,
        f"batches of {ROWS} choices": batches,
        "contexts read once": shared,
    }
    timings = in_turns(contenders, rounds=arguments.rounds, warm_up=1)
    for nats in found.values():
        np.testing.assert_allclose(nats, found["passes"], rtol=1e-4)
    loop = timings[PASSES].median
    rows = [
        (
            name,
            f"{arguments.questions / timing.median:.1f}",
            f"{arguments.questions / timing.least:.1f}",
            f"{loop / timing.median:.1f}",
        )
        for name, timing in timings.items()
    ]
    family = model.config.model.family
    title = f"{family}, {arguments.choices} choices after {arguments.context} bytes"
    title += f", of which {arguments.shared} are the same" if arguments.shared else ""
    show(title, ("", "questions/s, median", "best", "times full passes"), rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
