"""Compile what `batchscale run` would compile for the default suites on a described device; a line of JSON for each.

`python tests/accelerators/compile_suite.py h100` prints them. `test_accelerators.py` runs it once for each device,
since a wrong description ends the process.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import msgspec
from batchscale.config import experiment as experiments
from batchscale.config.vocabulary import CellKey
from batchscale.measure.ahead import programs, targets
from batchscale.measure.ahead.program_facts import compiled_facts
from batchscale.measure.ahead.programs import Sizes
from batchscale.measure.control.failures import FAILURES, failure_of
from batchscale.measure.convergence.lane_devices import LaneDevices
from batchscale.measure.convergence.lanes import Call
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.data.made_up import ArraySpec, ExampleSpec

MNIST = ExampleSpec(
    task="classification",
    classes=10,
    inputs=ArraySpec(shape=[28, 28, 1], dtype="float32", levels=0),
    labels=ArraySpec(shape=[], dtype="int32", levels=10),
)
TEXT = ExampleSpec(
    task="language_model",
    classes=256,
    tokens_per_example=256,
    inputs=ArraySpec(shape=[256], dtype="uint8", levels=256),
    labels=ArraySpec(shape=[256], dtype="uint8", levels=256),
)
SIZES, TEXT_SIZES = Sizes(55_000, 5_000, 10_000), Sizes(150_000, 4_000, 4_000)
SUITE = ("lenet_mnist", "mlp_mnist")
LARGER = {"decoder_gcide": (TEXT, TEXT_SIZES), "resnet8_fashion": (MNIST, SIZES)}
"""Experiments of the suite for GPUs and TPUs. Only a sample of their programs is compiled: all would take minutes."""
SHARED = "mlp_mnist"
"""The experiment whose lanes are compiled over several devices too."""
PARALLEL_BATCH_SIZE = 256


class Program(NamedTuple):
    kind: str
    name: str
    call: Call
    devices: tuple[Any, ...]
    donated: bool
    graph: bool = False


def programs_of(name: str, session: Any) -> Iterator[Program]:
    """Yield the programs of one experiment; of those that take a TPU minutes, a single one."""
    tpu = session.host.machine.platform == "tpu"
    precision = session.experiment.workload.precision
    lowering = programs.usual_lowering(session)
    if tpu and session.convolves:
        yield cell(name, session, CellKey(64, "scan", precision="default"), lowering, 1)
        return
    for size in sorted({session.batch_sizes[0], 256, session.batch_sizes[-1]}):
        for one in ("float32", "default", "bfloat16"):
            for loop in ("dispatch", "scan"):
                yield cell(name, session, CellKey(size, loop, precision=one), lowering, 1)
    if not tpu:
        yield cell(name, session, CellKey(256, "graph", precision=precision), lowering, 1)._replace(graph=True)
    for count in (4, 8):
        for one in ("float32", "bfloat16"):
            key = CellKey(PARALLEL_BATCH_SIZE, "dispatch", precision=one, devices=count)
            yield cell(name, session, key, lowering, count)
    yield from programs_of_lanes(name, session, tpu=tpu)


def programs_of_lanes(name: str, session: Any, *, tpu: bool) -> Iterator[Program]:
    """Yield the programs that train and evaluate lanes, and for a GPU those that train by one CUDA graph."""
    for tier in LanePrograms(session).tiers:
        for way in session.lowerings:
            for part, call in programs.tier_calls(session, tier, way):
                label, trains = f"{name} {part} {tier.label} {way}", part == "train"
                made = Program(part, label, call, described(session, 1), trains)
                yield made
                if trains and not tpu:
                    yield made._replace(name=f"{label} as a graph", graph=True)


def sample_of(name: str, session: Any) -> Iterator[Program]:
    """Yield the smallest and the largest cell, one tier, and a data-parallel step; for a TPU, a minute's worth."""
    tpu, precision = session.host.machine.platform == "tpu", session.experiment.workload.precision
    lowering, first, last = programs.usual_lowering(session), session.batch_sizes[0], session.batch_sizes[-1]
    # A TPU has too little memory for the largest cell, which its compiler finds at once.
    for size in (last,) if tpu else (first, last):
        yield cell(name, session, CellKey(size, "scan", precision=precision), lowering, 1)
    if not tpu:
        key = CellKey(PARALLEL_BATCH_SIZE, "dispatch", precision=precision, devices=4)
        yield cell(name, session, key, lowering, 4)
    if not (tpu and session.convolves):
        tier = LanePrograms(session).tiers[0]
        for part, call in programs.tier_calls(session, tier, lowering):
            yield Program(part, f"{name} {part} {tier.label} {lowering}", call, described(session, 1), part == "train")


def lanes_over_devices(name: str, session: Any) -> Iterator[Program]:
    """Yield the programs that train and evaluate lanes which several devices share."""
    tier, lowering = LanePrograms(session).tiers[0], programs.usual_lowering(session)
    for count in (4, 8):
        devices = described(session, count)
        for part, call in programs.tier_calls(session, tier, lowering, LaneDevices(count, devices)):
            yield Program(part, f"{name} {part} {tier.label} {lowering} x{count}", call, devices, part == "train")


def described(session: Any, count: int) -> tuple[Any, ...]:
    return tuple(targets.devices(targets.target_named(session.host.machine.name), count))


def cell(name: str, session: Any, key: CellKey, lowering: str | None, count: int) -> Program:
    devices = described(session, count)
    label = f"{name} {key.loop} B={key.batch_size} {key.precision} {lowering}" + (f" x{count}" if count > 1 else "")
    kind = "parallel" if count > 1 else "cell"
    return Program(kind, label, programs.cell_call(session, key, lowering, devices), devices, True)


def compiled(target: targets.Target, program: Program) -> dict[str, Any]:
    """Compile a program; return its facts next to what they should be by counting arrays."""
    arguments = jax.tree.map(_bytes_on_a_device, program.call[1])
    found: dict[str, Any] = {
        "kind": program.kind,
        "graph": program.graph,
        "name": program.name,
        "argument_bytes": sum(jax.tree.leaves(arguments)),
        "donated_bytes": sum(jax.tree.leaves(arguments[0])) if program.donated else 0,
        "parameter_bytes": sum(jax.tree.leaves(arguments[0].params)) if program.kind == "parallel" else 0,
    }
    try:
        facts = compiled_facts(target, program.devices, *program.call, donated=program.donated, graph=program.graph)
    except FAILURES as error:
        return {**found, "error": failure_of(error).message}
    return {**found, "facts": msgspec.to_builtins(facts)}


def _bytes_on_a_device(leaf: Any) -> int:
    sharding = getattr(leaf, "sharding", None)
    shape = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
    return math.prod(shape) * leaf.dtype.itemsize


def every_program(target: targets.Target, name: str) -> Iterator[Program]:
    for suite in SUITE:
        session = programs.described_session(experiments.find(suite), MNIST, SIZES, target, name)
        yield from programs_of(suite, session)
        if suite == SHARED:
            yield from lanes_over_devices(suite, session)
    for larger, (spec, sizes) in LARGER.items():
        yield from sample_of(larger, programs.described_session(experiments.find(larger), spec, sizes, target, name))


def main(name: str) -> None:
    target = targets.target_named(name)
    for program in every_program(target, name):
        print(json.dumps(compiled(target, program)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
