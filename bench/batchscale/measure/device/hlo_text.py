"""Read an optimized program as XLA prints it: computations, instructions, shapes, and which loop calls which body.

`Compiled.as_text()` is the program after fusion and scheduling, so that nearly every instruction of it is one kernel.
For a GPU nothing else reports how many there are: `cost_analysis` is not available.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_COMMENT = re.compile(r"/\*.*?\*/")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ROLES = ("body", "to_apply", "calls", "true_computation", "false_computation")
_ROLE = re.compile(rf"\b({'|'.join(_ROLES)})=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_INDEX = re.compile(r"\bindex=(\d+)")
_LAYOUT = re.compile(r"\{[^}]*\}")
_BITS = re.compile(r"\d+")
_BYTE_WIDE = ("pred",)
_WITHOUT_BYTES = ("token", "opaque")


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: Of its result.
        shape: Of its result, as XLA prints it.
        opcode: What it does.
        operands: Names of the results it reads.
        called: Computations it calls, by role; the branches of a conditional are `branch0`, `branch1` and so on.
        text: The whole line.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    called: Mapping[str, str]
    text: str

    @property
    def output_bytes(self) -> int:
        """Bytes of the result."""
        return shape_bytes(self.shape)

    @property
    def trips(self) -> int | None:
        """Turns of a loop, where the compiler knows them."""
        found = _TRIPS.search(self.text)
        return int(found[1]) if found else None


class Module(NamedTuple):
    """A program.

    Attributes:
        entry: Name of the computation that runs.
        computations: Instructions by the name of their computation.
    """

    entry: str
    computations: Mapping[str, list[Instruction]]

    def reached(self, name: str) -> Iterator[Instruction]:
        """Yield the instructions of a computation and of every loop, branch and call in it, but not of fusions."""
        for one in self.computations.get(name, ()):
            yield one
            if one.opcode in ("while", "conditional", "call"):
                for role, called in one.called.items():
                    if role != "condition":
                        yield from self.reached(called)


def parse(text: str) -> Module:
    """Read the text of an optimized program."""
    entry, computations, current = "", {}, None
    for raw in text.splitlines():
        line = _COMMENT.sub("", raw)
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_instruction(found[1], found[2]))
    return Module(entry, computations)


def shape_bytes(shape: str) -> int:
    """Return the bytes of an array, or of all arrays of a tuple."""
    return sum(_array_bytes(kind, sizes) for kind, sizes in _ARRAY.findall(shape))


def unread_bytes(instructions: Sequence[Instruction]) -> dict[str, int]:
    """Return by name the bytes of a result that no other instruction takes out of it.

    Such are the workspaces that a library asks for: they are elements of the result of its call. What is read as a
    whole, and what nothing reads, as the result of a computation, has no such part.
    """
    taken: dict[str, set[int]] = {}
    whole = set()
    for one in instructions:
        if one.opcode == "get-tuple-element" and (found := _INDEX.search(one.text)):
            taken.setdefault(one.operands[0], set()).add(int(found[1]))
        else:
            whole.update(one.operands)
    tuples = (one for one in instructions if one.name in taken and one.name not in whole and _is_flat(one.shape))
    return {one.name: _left_bytes(one.shape, taken[one.name]) for one in tuples}


def _left_bytes(shape: str, taken: set[int]) -> int:
    return sum(_array_bytes(*array) for at, array in enumerate(_ARRAY.findall(shape)) if at not in taken)


def _is_flat(shape: str) -> bool:
    """Return True for a tuple of arrays that holds no further tuple."""
    return _LAYOUT.sub("", shape).count("(") == 1


def array_sizes(shape: str) -> list[tuple[int, ...]]:
    """Return the lengths of the axes of every array in a shape."""
    return [tuple(int(size) for size in sizes.split(",") if size) for _, sizes in _ARRAY.findall(shape)]


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, call = rest[:end], rest[end:].lstrip()
    opened = call.index("(")
    closed = _closing(call, opened)
    operands, attributes = call[opened + 1 : closed], call[closed + 1 :]
    called = dict(_ROLE.findall(attributes))
    if branches := _BRANCHES.search(attributes):
        called |= {f"branch{i}": one.strip().lstrip("%") for i, one in enumerate(branches[1].split(","))}
    return Instruction(name, shape, call[:opened], tuple(_NAME.findall(operands)), called, rest)


def _closing(text: str, opened: int) -> int:
    """Return the position of the parenthesis that closes the one at `opened`."""
    depth = 0
    for at in range(opened, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return len(text)


def _array_bytes(kind: str, sizes: str) -> int:
    if kind in _WITHOUT_BYTES:
        return 0
    bits = _BITS.search(kind)
    width = 8 if kind in _BYTE_WIDE or bits is None else int(bits[0])
    return math.ceil(math.prod(int(size) for size in sizes.split(",") if size) * width / 8)
