"""The hierarchical families against the flat Transformer, at equal FLOPs per byte.

    python -m benchmarks.families

Eight tables, each from turns in one run, on this machine's Python standard library as text:

- a training step at one length: bytes/s, temporary memory, and the share of time ("rest") of all
  but the blocks: the patching, the embedding, the head and the optimiser;
- training steps as the length grows, with as many bytes in a step;
- scoring of short texts in rows of the whole length, and in rows of the length that they need;
- cached decoding of text, byte by byte, by models of equal size, and ("decoding_flops") of equal
  FLOPs per byte; H-Net has patches by a rule, since an untrained router's are not those of text
  (BLT has them in all tables, for its own come from another model);
- memory of the decoding state as the text grows, in all and outside the backbone;
- training steps of dynamic token pooling with learned boundaries, against a flat Transformer of
  the same depth and width, with slots for 1.25 times the expected patches: with attention in
  blocks, whose memory is linear in the row, and ("pooling_quadratic") with whole rows of scores,
  as published.

Widths of the backbones come closest to the flat model's FLOPs per byte; the column "t/FLOP" (time
per FLOP, relative to the flat model's) divides out the remaining difference.
"""

import dataclasses
import typing
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from benchmarks.tables import show
from bytelm.core.vocabulary import START
from bytelm.data.config import DataConfig
from bytelm.data.loader import train_loader
from bytelm.data.open_data import OpenData
from bytelm.inference.scoring import Scorer, score_documents
from bytelm.models import Batch, ModelConfig
from bytelm.models.aunet import AUNetConfig
from bytelm.models.blt import BLTConfig
from bytelm.models.dynamic_pooling import DynamicPoolingConfig
from bytelm.models.hat import HATConfig
from bytelm.models.hat2 import HAT2Config
from bytelm.models.hnet import HNetConfig
from bytelm.models.megabyte import MegaByteConfig
from bytelm.models.parameters import roles_of
from bytelm.models.spacebyte import SpaceByteConfig
from bytelm.models.transformer import TransformerConfig
from bytelm.nn.attention.attention import AttentionImplementation
from bytelm.nn.mesh import MeshConfig, row_share
from bytelm.nn.stack import Stack
from bytelm.patching.learned import GumbelPatches
from bytelm.patching.segmenter import RulePatches
from bytelm.training import host_memory
from bytelm.training.optimizer import AdamW
from bytelm.training.program import train_program
from bytelm.training.timing import RepeatedStep, in_turns, repeated_step

Contender = Literal["flat, window", "megabyte", "spacebyte", "hat", "hat2", "hnet", "aunet", "blt"]
Table = Literal[
    "step",
    "lengths",
    "scoring",
    "decoding",
    "decoding_flops",
    "state",
    "pooling",
    "pooling_quadratic",
]

TEXTS, SHORT_TEXT = 128, 88
"""How many short texts are scored, and their bytes."""
WIDTHS = range(128, 2049, 64)
"""Widths of the backbone to choose from."""
BYTES_PER_SLOT = 5.5
"""Capacity of the backbones, in bytes per slot."""
NGRAM_ROWS = 1000
"""Of each of BLT's six tables, which are parameters of the models of equal size."""


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    width: int = 256
    """Channels of the flat Transformer."""
    depth: int = 6
    """Its blocks, and those of each stack of a hierarchical model, local ones divided in two."""
    length: int = 1024
    """Symbols in a row, in the first table."""
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    """Symbols in a row, in the second table."""
    symbols: int = 16384
    """Symbols in a step."""
    decoded: int = 384
    """Bytes decoded in a run."""
    context: int = 0
    """Bytes that the decoding state has room for, if more: attention reads all of it."""
    parameters: float = 20e6
    """Parameters of each model that decodes."""
    contenders: tuple[Contender, ...] = typing.get_args(Contender)
    """Models to measure next to the flat one, in the first three tables."""
    pooled_lengths: tuple[int, ...] = (2048, 8192)
    """Symbols in a row, and in a step, in the last table but one; the first of them in the last."""
    shortening: tuple[int, ...] = (2, 4)
    """Bytes per patch, in the last tables."""
    rounds: int = 5
    """Turns that each contender takes."""
    tables: tuple[Table, ...] = typing.get_args(Table)
    """Which tables to make."""


def families(arguments: Arguments) -> dict[str, Callable[[int], ModelConfig]]:
    """By family, a function from the width of the backbone (flat: of the model) to a config."""
    depth, local = arguments.depth, 3 * arguments.width // 4
    levels = {"local_width": local, "global_depth": depth, "bytes_per_slot": BYTES_PER_SLOT}
    halves = {**levels, "encoder_depth": depth // 2, "decoder_depth": depth // 2}
    contenders: dict[Contender, Callable[[int], ModelConfig]] = {
        "flat, window": lambda width: TransformerConfig(width=width, depth=depth, window=local),
        "megabyte": lambda width: MegaByteConfig(
            **levels | {"bytes_per_slot": None}, local_depth=depth, global_width=width
        ),
        "spacebyte": lambda width: SpaceByteConfig(
            **levels, local_depth=depth, global_width=max(width, local)
        ),
        "hat": lambda width: HATConfig(**halves, global_width=width),
        "hat2": lambda width: HAT2Config(**halves, global_width=width, window=local),
        "hnet": lambda width: HNetConfig(
            layout=f"m{depth // 2} [T{depth}] m{depth // 2}",
            widths=(local, max(width, local)),
            state_width=64,
            bytes_per_slot=BYTES_PER_SLOT,
        ),
        "aunet": lambda width: AUNetConfig(
            widths=(local, max(local, (local + width) // 128 * 64), max(local, width)),
            depths=(max(1, depth // 3), max(1, depth // 6), depth),
            windows=(local, None, None),
            bytes_per_slot=BYTES_PER_SLOT,
        ),
        "blt": lambda width: BLTConfig(
            **halves, global_width=width, window=local, ngram_rows=NGRAM_ROWS
        ),
    }
    chosen = {name: contenders[name] for name in arguments.contenders}
    return {"flat": lambda width: TransformerConfig(width=width, depth=depth), **chosen}


def flops_per_byte(config: ModelConfig, length: int) -> float:
    """FLOPs per byte of one forward pass."""
    return config.forward_flops(length) / length


def closest(make: Callable[[int], ModelConfig], wanted: float, measure: Callable) -> ModelConfig:
    """The config whose measure is closest to the wanted one."""
    return min(map(make, WIDTHS), key=lambda config: abs(measure(config) - wanted))


def text_batch(length: int, symbols: int) -> Batch:
    """A batch of `symbols` symbols."""
    rows = max(1, symbols // length)
    data = DataConfig(sequence_length=length, batch_size=rows)
    return next(train_loader(OpenData(data), 0, *row_share(rows, MeshConfig(data=1).build())))


def training_step(config: ModelConfig, batch: Batch) -> RepeatedStep:
    """A training step of a fresh model."""
    mesh = MeshConfig(data=1).build()
    return repeated_step(
        train_program(config, AdamW().build(1000, roles_of(config)), mesh), batch, mesh
    )


def step_table(arguments: Arguments) -> None:
    """Training steps at one length."""
    batch = text_batch(arguments.length, arguments.symbols)
    measure = partial(flops_per_byte, length=arguments.length)
    makers = families(arguments)
    flat = makers["flat"](arguments.width)
    configs = {name: closest(make, measure(flat), measure) for name, make in makers.items()}
    built = {name: training_step(config, batch) for name, config in configs.items()}
    with mock.patch.object(Stack, "__call__", lambda self, x, *_, **__: x):
        bare = {name: training_step(c, batch).run for name, c in configs.items()}
    timings = in_turns({n: step.run for n, step in built.items()}, rounds=arguments.rounds)
    rest = in_turns(bare, rounds=arguments.rounds)

    def cost(name: str) -> float:
        return timings[name].median / measure(configs[name])

    rows = [
        (
            name,
            f"{measure(configs[name]) / 1e6:.1f}",
            f"{parameters(configs[name]) / 1e6:.1f}",
            f"{timing.median * 1e3:,.0f}",
            f"{timing.least * 1e3:,.0f}",
            f"{batch.ids.size / timing.median:,.0f}",
            f"{cost(name) / cost('flat'):.2f}",
            f"{rest[name].median / timing.median:.1%}",
            f"{built[name].temporary_bytes / 2**20:,.0f}",
        )
        for name, timing in timings.items()
    ]
    columns = ("", "MFLOP/B", "M params", "median ms", "least ms", "B/s", "t/FLOP", "rest", "MiB")
    show(f"Training step, T {arguments.length}, {batch.ids.size} symbols", columns, rows)


def lengths_table(arguments: Arguments) -> None:
    """Training steps at several lengths."""
    makers = families(arguments)
    measure = partial(flops_per_byte, length=arguments.lengths[0])
    wanted = measure(makers["flat"](arguments.width))
    configs = {name: closest(make, wanted, measure) for name, make in makers.items()}
    rows: dict[str, list[str]] = {name: [name] for name in configs}
    for length in arguments.lengths:
        batch = text_batch(length, arguments.symbols)
        built = {name: training_step(config, batch) for name, config in configs.items()}
        steps = {name: step.run for name, step in built.items()}
        timings = in_turns(steps, rounds=max(2, arguments.rounds // 2), warm_up=1)
        for name, timing in timings.items():
            speed = batch.ids.size / timing.median
            memory = built[name].temporary_bytes / 2**20
            rows[name].append(f"{speed:,.0f} ({memory:,.0f})")
    columns = ("bytes/s (MiB)", *(f"T {length}" for length in arguments.lengths))
    show(f"Training as T grows, {arguments.symbols} symbols a step", columns, list(rows.values()))


def scoring_table(arguments: Arguments) -> None:
    """Short texts, of the flat model and one with patches, at T 1024."""
    symbols = text_batch(SHORT_TEXT, TEXTS * SHORT_TEXT).ids[:TEXTS]
    texts = [bytes((row % 256).astype(np.uint8)) for row in symbols]
    rows = []
    for name in ("flat", "spacebyte"):
        config = TransformerConfig(width=128, depth=2) if name == "flat" else SpaceByteConfig()
        if isinstance(config, SpaceByteConfig):
            config = dataclasses.replace(config, local_width=64, global_width=128, global_depth=2)
        scorer = Scorer(*nnx.split(config.build(nnx.Rngs(0))))
        score = partial(score_documents, scorer, texts, sequence_length=1024)

        def in_full_rows(score: Callable = score) -> object:
            with ExitStack() as stack:
                for module in ("scoring", "row_lengths"):
                    place = f"bytelm.inference.{module}.shortest_row"
                    stack.enter_context(mock.patch(place, lambda inputs, length: length))
                return score()

        times = in_turns({"short": score, "full": in_full_rows}, rounds=3, warm_up=1)
        speeds = [TEXTS * SHORT_TEXT / times[way].median for way in ("full", "short")]
        rows.append((name, *(f"{s:,.0f}" for s in speeds), f"{speeds[1] / speeds[0]:.1f}"))
    title = f"scoring of {TEXTS} texts of {SHORT_TEXT} bytes, bytes/s"
    show(title, ("", "rows of 1024", "rows as long as needed", "x"), rows)


def parameters(config: ModelConfig) -> int:
    """Parameters of a model."""
    abstract = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract)))


def decoding(config: ModelConfig, text: np.ndarray, room: int) -> Callable[[], object]:
    """Reads text byte by byte through a cache of `room` bytes, as generation does."""
    graphdef, params = nnx.split(config.build(nnx.Rngs(0)).for_decoding())

    @jax.jit
    def run(params: Any, ids: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params)

        def step(cache: Any, symbol: jax.Array) -> tuple[Any, jax.Array]:
            logits, cache = model.extend(symbol[None, None], cache, jnp.ones((1,), jnp.int32))
            return cache, logits.argmax()

        return jax.lax.scan(step, model.init_state(1, room), ids)[1]

    return lambda: jax.block_until_ready(run(params, text))


def decoding_configs(
    arguments: Arguments, wanted: float, measure: Callable[[ModelConfig], float]
) -> dict[str, ModelConfig]:
    """Models to decode with, whose measure is closest to the wanted one."""
    configs = {n: closest(make, wanted, measure) for n, make in families(arguments).items()}
    return {
        name: dataclasses.replace(config, segmenter=RulePatches("spacelike"))
        if isinstance(config, HNetConfig)
        else config
        for name, config in configs.items()
    }


def equal_flops(arguments: Arguments) -> dict[str, ModelConfig]:
    """Models to decode with, of the FLOPs per byte that the first table's have."""
    measure = partial(flops_per_byte, length=arguments.length)
    wanted = measure(TransformerConfig(width=arguments.width, depth=arguments.depth))
    return decoding_configs(arguments, wanted, measure)


def decoding_table(arguments: Arguments, configs: dict[str, ModelConfig]) -> None:
    """Cached decoding."""
    ids = text_batch(arguments.decoded, arguments.decoded).ids[0]
    text = np.concatenate([[START], ids[1:]]).astype(np.int32)
    room = max(len(text), arguments.context)
    runs = {name: decoding(config, text, room) for name, config in configs.items()}
    timings = in_turns(runs, rounds=arguments.rounds, warm_up=1)
    rows = [
        (
            name,
            f"{parameters(configs[name]) / 1e6:.1f}",
            f"{flops_per_byte(configs[name], arguments.length) / 1e6:.1f}",
            f"{len(text) / timing.median:,.0f}",
            f"{len(text) / timing.least:,.0f}",
            f"{timings['flat'].median / timing.median:.1f}",
        )
        for name, timing in timings.items()
    ]
    columns = ("", "M params", "MFLOP/B", "bytes/s, median", "best", "x flat")
    show(f"Cached decoding of {len(text)} bytes, cache for {room}, batch 1", columns, rows)


def state_bytes(config: ModelConfig, length: int) -> tuple[int, int]:
    """Bytes of the decoding state of one row, and of those outside the backbone."""

    def size(state: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    state = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)).init_state(1, length))
    inner = getattr(state, "parts", state)
    while hasattr(inner, "inner"):
        inner = inner.inner
    return size(state), size(state) - size(inner)


def state_table(arguments: Arguments) -> None:
    """Memory of the decoding state."""
    rows = []
    for name, config in equal_flops(arguments).items():
        sizes = [state_bytes(config, length) for length in arguments.lengths]
        rows.append((name, *(f"{a / 2**10:,.0f} ({b / 2**10:,.0f})" for a, b in sizes)))
    columns = ("KiB (outside)", *(f"T {length}" for length in arguments.lengths))
    show("Decoding state of one row", columns, rows)


def pooling_table(
    arguments: Arguments, attention: AttentionImplementation, lengths: tuple[int, ...]
) -> None:
    """Training steps of hourglasses and of a Transformer of as many blocks."""
    width, ends = arguments.width, 2
    middle = 2 * arguments.depth - 2 * ends
    configs: dict[str, ModelConfig] = {
        "flat": TransformerConfig(width=width, depth=middle + 2 * ends, attention=attention)
    }
    for factor in arguments.shortening:
        configs[f"pooled by {factor}"] = DynamicPoolingConfig(
            width=width,
            pre_depth=ends,
            backbone_depth=middle,
            post_depth=ends,
            segmenter=GumbelPatches(rate=1 / factor),
            attention=attention,
        )
    for length in lengths:
        batch = text_batch(length, length)
        built = {name: training_step(config, batch) for name, config in configs.items()}
        steps = {name: step.run for name, step in built.items()}
        timings = in_turns(steps, rounds=max(2, arguments.rounds // 2), warm_up=1)
        flat_time, flat_memory = timings["flat"].median, built["flat"].temporary_bytes
        flat_flops = flops_per_byte(configs["flat"], length)
        rows = [
            (
                name,
                f"{batch.ids.size / timing.median:,.0f}",
                f"{timing.median / flat_time:.2f}",
                f"{flops_per_byte(configs[name], length) / flat_flops:.2f}",
                f"{built[name].temporary_bytes / 2**20:,.0f}",
                f"{built[name].temporary_bytes / flat_memory:.2f}",
            )
            for name, timing in timings.items()
        ]
        columns = ("", "B/s", "time, of flat", "FLOPs, of flat", "MiB", "memory, of flat")
        title = f"Dynamic token pooling, {middle + 2 * ends} blocks, attention {attention}"
        show(f"{title}, T {length}", columns, rows)


def main(arguments: Arguments) -> None:
    """Measures, and shows the tables."""
    tables: dict[Table, Callable[[Arguments], None]] = {
        "step": step_table,
        "lengths": lengths_table,
        "scoring": scoring_table,
        "decoding": lambda arguments: decoding_table(
            arguments, decoding_configs(arguments, arguments.parameters, parameters)
        ),
        "decoding_flops": lambda arguments: decoding_table(arguments, equal_flops(arguments)),
        "state": state_table,
        "pooling": partial(pooling_table, attention="auto", lengths=arguments.pooled_lengths),
        "pooling_quadratic": partial(
            pooling_table, attention="reference", lengths=arguments.pooled_lengths[:1]
        ),
    }
    host_memory.keep()
    for name in arguments.tables:
        tables[name](arguments)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
