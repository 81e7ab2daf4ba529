"""What the instructions of a compiled program cost: arithmetic, memory traffic and exchanges.

All numbers are of one device and one call of the program.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bytelm.core.hlo import Computation, Instruction, Program, Run

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
"""Instructions with which devices exchange data; those that run meanwhile end in `-start`."""
PAIRS = "attention-pairs-"
"""Begins the scope of a kernel of attention, which XLA cannot look into; then how many pairs of
positions it computes of each head."""
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
"""How many matrix products, each over all pairs, the parts of such a kernel do."""
_FREE = (
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "partition-id replica-id opt-barrier domain add-dependency"
).split()
"""Instructions that move nothing."""
_PICKING = ("dynamic-slice", "slice", "gather")
"""Instructions that read as much of their first operand as they return."""


class Work(NamedTuple):
    """Arithmetic and traffic of an instruction, or of several."""

    flops: float
    """Of matrix products and convolutions; a multiply-add counts 2."""
    bytes: float
    """Read from the device's main memory and written to it."""


class Exchange(NamedTuple):
    """A collective instruction.

    Attributes:
        kind: one of `KINDS`.
        bytes: of the whole array that is gathered, reduced or moved.
        group: the devices that take part, of the first group.
        times: how often it runs.
        in_loop: whether it stands in a loop.
    """

    kind: str
    dtype: str
    bytes: float
    group: tuple[int, ...]
    times: float
    in_loop: bool

    @property
    def sent(self) -> float:
        """Bytes that each device at least sends, each time: as in a ring."""
        others = 1 - 1 / len(self.group)
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.bytes
        return (2 if self.kind == "all-reduce" else 1) * others * self.bytes


def exchanges(program: Program) -> Iterator[Exchange]:
    """The collectives of a program, but those of a single device."""
    for run in program.runs():
        kind = run.instruction.opcode.removesuffix("-start")
        group = tuple(program.group(run.instruction)) if kind in KINDS else ()
        if len(group) < 2:
            continue
        operands = [run.computation[name] for name in run.instruction.operands]
        size = sum(operand.bytes for operand in operands)
        if kind == "all-gather":
            size *= len(group)
        # On TPU a reduction of which each device keeps a part is fused with the cut.
        if kind == "all-reduce" and "reduce-scatter" in run.fusion:
            kind = "reduce-scatter"
        dtype = operands[0].shapes[0].dtype if operands and operands[0].shapes else ""
        yield Exchange(kind, dtype, size, group, run.times, run.times > 1)


def works(program: Program) -> Iterator[tuple[Work, float]]:
    """The work of each instruction that runs on its own, such as a fusion, and how often it runs.

    What is fused counts to its fusion, so that arrays inside it are no traffic.
    """
    for run in program.runs():
        opcode = run.instruction.opcode
        name = opcode.removesuffix("-start").removesuffix("-done").removesuffix("-update")
        if run.fusion or opcode in _FREE or name in KINDS or opcode.endswith("-done"):
            continue
        work = Work(_flops(program, run), _traffic(program, run))
        if any(work):
            yield work, run.times


def _flops(program: Program, run: Run) -> float:
    instruction = run.instruction
    if instruction.opcode == "fusion":
        (fused,) = instruction.called("calls")
        inside = program.computations[fused]
        return sum(_flops(program, Run(each, inside, 1.0)) for each in inside.values())
    if instruction.opcode == "dot":
        contracted = instruction.dimensions("lhs_contracting_dims")
        dims = run.operand(0).shapes[0].dims
        return 2.0 * instruction.shapes[0].size * math.prod(dims[axis] for axis in contracted)
    if instruction.opcode == "convolution":
        return _convolution_flops(run)
    if instruction.opcode == "custom-call":
        return _attention_flops(run)
    return 0.0


def _convolution_flops(run: Run) -> float:
    """FLOPs of a convolution, as which XLA writes matrix products for TPUs too."""
    instruction = run.instruction
    inputs, kernel = (run.operand(index).shapes[0].dims for index in (0, 1))
    output = instruction.shapes[0].dims
    labels = re.split("_|->", instruction.attribute("dim_labels"))
    if len(labels) != 3:
        return 0.0
    window = dict(re.findall(r"(\w+)=(\S+)", instruction.attribute("window")))
    of_input, of_kernel, of_output = labels
    spatial = sorted(label for label in of_kernel if label.isdigit())
    pairs = 1.0
    for place, label in enumerate(spatial):

        def option(name: str, default: str, place: int = place) -> str:
            return window[name].split("x")[place] if name in window else default

        pairs *= _window_pairs(
            inputs[of_input.index(label)],
            kernel[of_kernel.index(label)],
            output[of_output.index(label)],
            stride=int(option("stride", "1")),
            padding=int(option("pad", "0_0").split("_")[0]),
            spread=int(option("lhs_dilate", "1")),
            spread_kernel=int(option("rhs_dilate", "1")),
        )
    others = output[of_output.index("b")] * output[of_output.index("f")]
    groups = int(instruction.attribute("batch_group_count") or 1)
    return 2.0 * pairs * others * kernel[of_kernel.index("i")] / groups


def _window_pairs(
    inputs: int,
    kernel: int,
    output: int,
    *,
    stride: int,
    padding: int,
    spread: int,
    spread_kernel: int,
) -> float:
    """How many pairs of an output and a place of the kernel meet an input, on one axis."""
    starts = np.arange(output, dtype=np.int64) * stride - padding
    found = 0
    for place in range(kernel):
        at = starts + place * spread_kernel
        found += int(np.sum((at >= 0) & (at <= (inputs - 1) * spread) & (at % spread == 0)))
    return float(found)


def _attention_flops(run: Run) -> float:
    """FLOPs of a kernel of attention, in a scope `PAIRS`; 0 for another custom call."""
    instruction = run.instruction
    scope = re.search(rf"{PAIRS}(\d+)/\S*?splash_m\w+?_(fwd|dq|dkv)", instruction.attributes)
    if scope is None:
        return 0.0
    # Keys may have fewer heads than queries.
    shapes = [x for name in instruction.operands for x in run.computation[name].shapes]
    queries = max(shapes, key=lambda shape: (len(shape.dims), shape.size))
    return 2.0 * _PRODUCTS[scope[2]] * int(scope[1]) * queries.size / queries.dims[-2]


def _traffic(program: Program, run: Run) -> float:
    """Bytes that an instruction reads and writes in main memory."""
    instruction, computation = run.instruction, run.computation
    operands = [computation[name] for name in instruction.operands]
    if instruction.opcode == "fusion":
        (fused,) = instruction.called("calls")
        inside = program.computations[fused]
        read = sum(_read_inside(inside, index, operand) for index, operand in enumerate(operands))
        return read + sum(_written(inside, each) for each in inside.values() if each.is_root)
    if instruction.opcode in _PICKING:
        return 2 * _far(instruction)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _far(operands[1])
    if instruction.opcode == "scatter":
        return 2 * _far(operands[-1])
    if instruction.opcode.endswith("-start"):  # a copy to memory of the chip, or from it
        return sum(map(_far, operands))
    return sum(map(_far, operands)) + _far(instruction)


def _far(instruction: Instruction) -> float:
    """Bytes of its result that lie in main memory."""
    return sum(shape.bytes for shape in instruction.shapes if not shape.is_near)


def _read_inside(inside: Computation, index: int, operand: Instruction) -> float:
    """Bytes that a fusion reads of an operand: only parts of it, if it cuts them out."""
    inner = next(
        (x for x in inside.values() if x.opcode == "parameter" and x.argument == str(index)), None
    )
    if inner is None or not _far(operand):
        return 0.0
    users = [each for each in inside.values() if inner.name in each.operands]
    if not users or any(each.operands[0] != inner.name for each in users):
        return _far(operand)
    parts = {*_PICKING, "dynamic-update-slice"}  # an update is in place
    if not parts.issuperset(each.opcode for each in users):
        return _far(operand)
    return sum(each.bytes for each in users if each.opcode in _PICKING)


def _written(inside: Computation, root: Instruction) -> float:
    """Bytes that a fusion writes: of an array that it changes in place only the change."""
    if root.opcode == "tuple":
        return sum(_written(inside, inside[name]) for name in root.operands)
    if root.opcode == "dynamic-update-slice":
        return inside[root.operands[1]].bytes
    return _far(root)
