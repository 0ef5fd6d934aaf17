"""Facts of a compiled program: memory, kernels, traffic between kernels, collectives, and what it must not hold."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import msgspec
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from batchscale.measure.ahead.targets import Target
from batchscale.measure.ahead.thunks import compiled_with_launches
from batchscale.measure.device import hlo_text
from batchscale.measure.device.compiled_programs import GRAPH_OPTION, IN_A_GRAPH, predicted_bytes
from batchscale.measure.device.hlo_text import Instruction
from batchscale.measure.device.kernels import kernels, main_loop, traffic_bytes
from batchscale.measure.throughput.timed_loops import AXIS

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "collective-broadcast",
)
_HOST = ("infeed", "outfeed", "send", "recv")
_CALLBACK = re.compile(r'custom_call_target="([^"]*(?:callback|host)[^"]*)"', re.IGNORECASE)
_RECOMPUTED = ".remat"
"""XLA's rematerialization pass adds this to the name of every value that it copies."""
_DOUBLE = re.compile(r"\bf64\[")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What one compiled program is like.

    A *tick* is one turn of the program's main loop: a step of a timed loop, a microbatch of mapped training, a chunk of
    an evaluation. A program without a loop is one tick.

    Attributes:
        compile_cpu_seconds: Processor time that compiling took.
        argument_bytes, output_bytes, temp_bytes, alias_bytes: Memory, as the compiler reports it.
        total_bytes: Memory that running it needs, except what libraries take for themselves on the device.
        kernels: Kernels and copies of a tick; of a conditional, those of its longest branch.
        traffic_bytes: Bytes that the kernels of a tick read and write; of the train split, those gathered.
        loops: Loops in the program.
        conditionals: Conditionals in the program.
        collectives: Names of the collective operations, with how many there are.
        collective_bytes: Bytes of their results.
        on_host: Operations that would wait for the host, or use double precision.
        recomputed: Values that the compiler computes again, by itself, to need less memory.
        graphs, host_loops, launches: See `Launches`; None where they are not known, as on a TPU.
    """

    compile_cpu_seconds: float
    argument_bytes: int
    output_bytes: int
    temp_bytes: int
    alias_bytes: int
    total_bytes: int
    kernels: int
    traffic_bytes: int
    loops: int
    conditionals: int
    collectives: dict[str, int]
    collective_bytes: int
    on_host: list[str]
    recomputed: int
    graphs: int | None = None
    host_loops: int | None = None
    launches: int | None = None


def compiled_facts(
    target: Target,
    devices: Sequence[Any],
    function: Callable,
    arguments: Sequence[PyTree],
    *,
    donated: bool,
    graph: bool = False,
) -> Facts:
    """Compile a program for described devices and return its facts.

    Args:
        target: What the devices are.
        devices: To compile for; an argument whose place is not given is whole on each of them.
        function: The program.
        arguments: Arrays, or their shapes and types.
        donated: True if the program may overwrite its first argument.
        graph: True if one CUDA graph is to hold all of its loops.

    Raises:
        JaxRuntimeError: when it cannot be compiled, for example because it needs more memory than a TPU has.
    """
    placed = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    shapes = jax.tree.map(lambda leaf: _placed(leaf, placed), tuple(arguments))
    traced = jax.jit(function, donate_argnums=(0,) if donated else ()).trace(*shapes)
    lowered = traced.lower(lowering_platforms=("cuda" if target.platform == "gpu" else "tpu",))
    options: dict[str, str | bool] = {GRAPH_OPTION: IN_A_GRAPH} if graph else {}
    start = cpu_seconds()
    if target.gpu is None:
        compiled, launches = lowered.compile(), None
    else:
        compiled, launches = compiled_with_launches(lambda more: lowered.compile(compiler_options=options | more))
    seconds = cpu_seconds() - start
    return msgspec.structs.replace(
        _facts(compiled, seconds, _split_sizes(shapes)), **(launches._asdict() if launches else {})
    )


def _placed(leaf: Any, usual: NamedSharding) -> jax.ShapeDtypeStruct:  # noqa: ANN401 - an array or its shape
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=getattr(leaf, "sharding", None) or usual)


def _split_sizes(arguments: PyTree) -> set[int]:
    """Return the elements of each argument with the longest first axis: of the split that examples are taken from."""
    shapes = {leaf.shape for leaf in jax.tree.leaves(arguments) if leaf.ndim}
    longest = max((shape[0] for shape in shapes), default=0)
    return {math.prod(shape) for shape in shapes if shape[0] == longest}


def _facts(compiled: jax.stages.Compiled, seconds: float, gathered: set[int]) -> Facts:
    text, memory = compiled.as_text(), compiled.memory_analysis()
    if text is None or memory is None:
        raise RuntimeError("the compiler does not report its program")
    module = hlo_text.parse(text)
    everything = list(module.reached(module.entry))
    collectives = [one for one in everything if _collective(one)]
    tick = main_loop(module)
    return Facts(
        compile_cpu_seconds=seconds,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        total_bytes=predicted_bytes(compiled) or 0,
        kernels=kernels(module, tick),
        traffic_bytes=traffic_bytes(module, tick, gathered),
        loops=sum(one.opcode == "while" for one in everything),
        conditionals=sum(one.opcode == "conditional" for one in everything),
        collectives=dict(Counter(_collective(one) for one in collectives)),
        collective_bytes=sum(one.output_bytes for one in collectives),
        on_host=sorted(_on_host(text, everything)),
        recomputed=sum(_RECOMPUTED in one.name for one in everything),
    )


def cpu_seconds() -> float:
    """Return the processor time of this process and of the assemblers that it ran."""
    return sum(os.times()[:4])


def _collective(one: Instruction) -> str:
    """Return the name of a collective operation; empty for any other, and for the end of one."""
    if one.opcode == "async-start":
        return next((name for name in _COLLECTIVES if name in one.name), "")
    return next((name for name in _COLLECTIVES if one.opcode in (name, f"{name}-start")), "")


def _on_host(text: str, everything: Sequence[Instruction]) -> set[str]:
    found = {one.opcode for one in everything if one.opcode.removesuffix("-start") in _HOST}
    found |= {match[1] for match in _CALLBACK.finditer(text)}
    return found | ({"f64"} if _DOUBLE.search(text) else set())
