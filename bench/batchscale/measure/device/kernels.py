"""The kernels of a compiled program: how many a turn of its main loop has, and the bytes that they read and write.

XLA's own count of bytes takes the whole of an array from which a kernel picks a few examples. For a perceptron and 16
examples of MNIST that is the train split, and fifty times what the step moves (JAX 0.10, on a CPU).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from batchscale.measure.device import hlo_text
from batchscale.measure.device.hlo_text import Instruction, Module

_NO_KERNEL = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id"),
    *("add-dependency", "replica-id", "domain", "get-dimension-size"),
}


def moved_bytes(compiled: jax.stages.Compiled, gathered: set[int], *, looped: bool) -> int | None:
    """Return the bytes that a step reads and writes; None if the compiler does not show its program.

    Args:
        compiled: The program.
        gathered: See `traffic_bytes`.
        looped: True if a step is one turn of the program's main loop, False if it is the whole program.
    """
    if (text := compiled.as_text()) is None:
        return None
    module = hlo_text.parse(text)
    return traffic_bytes(module, main_loop(module) if looped else module.entry, gathered)


def main_loop(module: Module) -> str:
    """Return the body of the outermost loop with the most kernels, or the program itself where there is none."""
    bodies = [one.called["body"] for one in outermost_loops(module, module.entry)]
    return max(bodies, key=lambda body: kernels(module, body), default=module.entry)


def kernels(module: Module, computation: str) -> int:
    """Return the kernels of a computation; inner loops of unknown length count as one turn."""
    return _summed(module, computation, lambda _, one: 1)


def traffic_bytes(module: Module, computation: str, gathered: set[int]) -> int:
    """Return the bytes that the kernels of a computation read and write, without results that nothing reads.

    Args:
        module: The program.
        computation: Which part of it.
        gathered: Elements of the arrays that a kernel picks examples from, and so reads in part only.
    """

    def bytes_of(known: _Known, one: Instruction) -> int:
        out = one.output_bytes - known.unread.get(one.name, 0)
        read = 0
        for operand in one.operands:
            shape = known.shapes.get(operand, "")
            size = hlo_text.shape_bytes(shape)
            picked = any(math.prod(sizes) in gathered for sizes in hlo_text.array_sizes(shape))
            read += min(size, out) if picked else size
        return out + read

    return _summed(module, computation, bytes_of)


class _Known(NamedTuple):
    """What is known of the results of a computation, by name: their shapes, and bytes of them that nothing reads."""

    shapes: dict[str, str]
    unread: dict[str, int]


def _summed(module: Module, computation: str, amount: Callable[[_Known, Instruction], int]) -> int:
    instructions = module.computations.get(computation, [])
    known = _Known({one.name: one.shape for one in instructions}, hlo_text.unread_bytes(instructions))
    total = 0
    for one in instructions:
        if one.opcode == "while":
            total += _summed(module, one.called["body"], amount) * (one.trips or 1)
        elif one.opcode == "conditional":
            total += max((_summed(module, branch, amount) for branch in one.called.values()), default=0)
        elif one.opcode == "call":
            total += _summed(module, one.called["to_apply"], amount)
        elif one.opcode not in _NO_KERNEL and not one.opcode.endswith(("-done", "-update")):
            total += amount(known, one)
    return total


def outermost_loops(module: Module, computation: str) -> list[Instruction]:
    """Return the loops of a computation that are in no other loop."""
    found = []
    for one in module.computations.get(computation, []):
        if one.opcode == "while":
            found.append(one)
        elif one.opcode in ("call", "conditional"):
            found += [loop for inner in one.called.values() for loop in outermost_loops(module, inner)]
    return found
