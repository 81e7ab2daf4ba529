"""Compiled programs in XLA's text form: their instructions, and how often each of them runs."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
"""Of the types whose names do not end in their width."""
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_NUMBER = re.compile(r"^\d+$")
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_LISTED_GROUPS = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}")


class Shape(NamedTuple):
    """An array of a program, on one device."""

    dtype: str
    dims: tuple[int, ...]
    is_near: bool = False
    """Whether it lies in memory of the chip itself, not in the device's main memory."""

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        return self.size * _bits(self.dtype) / 8


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        shapes: of its result, or of the parts of a tuple.
        argument: the text between its parentheses.
        attributes: the text after them.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    argument: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """The names of the instructions whose results it reads."""
        return _NAME.findall(self.argument)

    @property
    def bytes(self) -> float:
        """Of its result."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, name: str) -> str:
        """The text of an attribute such as `dimensions`, without braces; "" if it has none."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|([^,\s]+))", self.attributes)
        return "" if found is None else found[1] if found[1] is not None else found[2]

    def dimensions(self, name: str) -> list[int]:
        """The numbers of an attribute."""
        return [int(word) for word in self.attribute(name).split(",") if word]

    def called(self, *names: str) -> list[str]:
        """The computations that the named attributes name."""
        return [found for name in names for found in _NAME.findall(self.attribute(name))]


Computation = Mapping[str, Instruction]
"""Instructions by name, in order."""


@dataclass(frozen=True)
class Run:
    """An instruction, the computation it stands in, and how often it runs in a program."""

    instruction: Instruction
    computation: Computation
    times: float
    fusion: str = ""
    """Of what only a fusion contains: the fused computation's name."""

    def operand(self, index: int) -> Instruction:
        """The instruction whose result is an operand."""
        return self.computation[self.instruction.operands[index]]


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
        computations: by name.
        devices: over which it is divided.
    """

    computations: Mapping[str, Computation]
    entry: str
    devices: int

    def runs(self) -> Iterator[Run]:
        """All instructions, also those inside loops and fusions.

        A loop whose number of turns is not known counts once, and each branch of a conditional.
        """
        yield from self._runs(self.entry, 1.0)

    def _runs(self, name: str, times: float, fusion: str = "") -> Iterator[Run]:
        computation = self.computations[name]
        for instruction in computation.values():
            yield Run(instruction, computation, times, fusion)
            if instruction.opcode == "while":
                (body,) = instruction.called("body")
                yield from self._runs(body, times * self.trips(instruction), fusion)
            elif instruction.opcode == "fusion":
                (fused,) = instruction.called("calls")
                yield from self._runs(fused, times, fused)
            else:
                names = instruction.called("calls", "branch_computations", "called_computations")
                names += instruction.called("true_computation", "false_computation")
                names += instruction.called("to_apply") if instruction.opcode == "call" else []
                for called in names:
                    yield from self._runs(called, times, fusion)

    def trips(self, loop: Instruction) -> int:
        """How often the body of a `while` runs, if it counts from 0 up to a constant; else 1."""
        if known := _TRIPS.search(loop.attributes):
            return int(known[1])
        (name,), (body_name,) = loop.called("condition"), loop.called("body")
        condition, body = self.computations[name], self.computations[body_name]
        limits = [limit for each in condition.values() if (limit := _constant(each)) is not None]
        counters = [each for each in condition.values() if each.opcode == "get-tuple-element"]
        if len(limits) != 1 or len(counters) != 1:
            return 1
        index = int(counters[0].attribute("index"))
        step = self._growth(_Scope(body), root_of(body).operands[index], index)
        return max(1, -(-limits[0] // step)) if step else 1

    def _growth(self, scope: "_Scope", name: str, index: int) -> int | None:
        """By how much a value exceeds a loop's counter; None if it is something else.

        Args:
            index: of the counter in the loop's tuple.
        """
        found = scope.computation[name]
        if found.opcode == "get-tuple-element":
            return 0 if found.attribute("index") == str(index) else None
        if found.opcode in ("copy", "bitcast"):
            return self._growth(scope, found.operands[0], index)
        if found.opcode == "parameter" and scope.outer is not None and scope.caller is not None:
            return self._growth(scope.outer, scope.caller.operands[int(found.argument)], index)
        if found.opcode == "fusion":
            inside = self.computations[found.called("calls")[0]]
            return self._growth(_Scope(inside, scope, found), root_of(inside).name, index)
        if found.opcode == "add":
            one, other = found.operands
            for counter, added in ((one, other), (other, one)):
                number = scope.constant(added)
                grown = self._growth(scope, counter, index) if number is not None else None
                if grown is not None and number is not None:
                    return grown + number
        return None

    def group(self, instruction: Instruction) -> list[int]:
        """The devices of the first of the groups between which a collective exchanges data."""
        if found := _MESH_GROUPS.search(instruction.attributes):
            return _along(found[1], found[2])
        if found := _LISTED_GROUPS.search(instruction.attributes):
            return _numbers(found[1])
        if found := _IOTA_GROUPS.search(instruction.attributes):
            shape, dims = _numbers(found[1]), _numbers(found[2])
            order = _numbers(found[3]) if found[3] else list(range(len(dims)))
            return _transposed_iota(dims, order)[: shape[-1]]
        return list(range(self.devices))


class _Scope(NamedTuple):
    """A computation, and where it is called if it is fused."""

    computation: Computation
    outer: "_Scope | None" = None
    caller: Instruction | None = None

    def constant(self, name: str) -> int | None:
        """The number that a name stands for; None if it is none."""
        found = self.computation[name]
        if found.opcode == "parameter" and self.outer is not None and self.caller is not None:
            return self.outer.constant(self.caller.operands[int(found.argument)])
        return _constant(found)


def root_of(computation: Computation) -> Instruction:
    """The instruction whose result is that of its computation."""
    return next(each for each in computation.values() if each.is_root)


def _constant(instruction: Instruction) -> int | None:
    is_number = instruction.opcode == "constant" and _NUMBER.match(instruction.argument)
    return int(instruction.argument) if is_number else None


def parse(text: str) -> Program:
    """The program of a text, such as `jax.stages.Compiled.as_text` gives."""
    computations: dict[str, dict[str, Instruction]] = {}
    current: dict[str, Instruction] = {}
    entry = ""
    for line in _whole_lines(text):
        if header := _COMPUTATION.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            current[found[2]] = _instruction(found[2], found[3], is_root=bool(found[1]))
    divided = re.search(r"num_partitions=(\d+)", text[: text.find("\n")])
    return Program(computations, entry, int(divided[1]) if divided else 1)


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, with those joined to the one before that an attribute with line breaks continues."""
    whole = ""
    for line in text.splitlines():
        if line[:1] in ('"', "}") and line != "}":
            whole += line
            continue
        yield whole
        whole = line
    yield whole


def _instruction(name: str, text: str, *, is_root: bool) -> Instruction:
    """An instruction from the text after the equals sign: `type opcode(operands), attributes`."""
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opening = text.index("(", end)
    closing = _closing(text, opening)
    return Instruction(
        name,
        opcode=text[end:opening].strip(),
        shapes=_shapes(text[:end]),
        argument=text[opening + 1 : closing - 1],
        attributes=text[closing:],
        is_root=is_root,
    )


def _closing(text: str, opening: int) -> int:
    """The place after the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in re.finditer(r"[()]", text[opening:]):
        depth += 1 if place[0] == "(" else -1
        if not depth:
            return opening + place.end()
    return len(text)


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(dtype, tuple(_numbers(dims)), is_near="S(1)" in layout)
        for dtype, dims, layout in _SHAPE.findall(text)
    )


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    width = re.match(r"[a-z]+(\d+)", dtype)  # "f8e4m3fn" has 8
    return int(width[1]) if width else 0


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def _along(mesh: str, axes: str) -> list[int]:
    """The first devices of a mesh such as `'a'=2,'b'=4` along axes such as `'a','b':(2)2`.

    The part `:(2)2` of an axis of 4 is its inner half: 2 come before it.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    found = [0]
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
        place = list(sizes).index(name)
        stride = math.prod(list(sizes.values())[place + 1 :])
        count = int(part or sizes[name])
        stride *= sizes[name] // (int(before or 1) * count)
        found = [start + stride * i for start in found for i in range(count)]
    return found


def _transposed_iota(dims: Sequence[int], order: Sequence[int]) -> list[int]:
    """The numbers from 0 on as an array of these dimensions, transposed, in a row."""
    strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
    found = [0]
    for axis in order:
        found = [start + strides[axis] * i for start in found for i in range(dims[axis])]
    return found
