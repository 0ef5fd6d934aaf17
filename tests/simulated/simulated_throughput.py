"""Draw rows of the throughput stage from a truth: compilations, rounds on one and on several devices, limits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from batchscale.records.row_types import AnyRow, Calibration, Compilation, Limit, Round, Stage
from truth import Truth, origin


def throughput_rows(truth: Truth, random: np.random.Generator, machine: str = "simulated-cpu") -> Iterator[AnyRow]:
    """Yield compilations and rounds of both loops. A size out of memory has rounds in `microbatches` or none."""
    common = origin(truth, machine)
    for batch_size in truth.batch_sizes:
        for loop, extra in (("scan", 0.0), ("dispatch", truth.dispatch_seconds)):
            fits = batch_size not in truth.out_of_memory
            yield Compilation(
                **common,
                batch_size=batch_size,
                loop=loop,
                status="ok" if fits else "out_of_memory",
                message=None if fits else "RESOURCE_EXHAUSTED: out of memory",
                compile_seconds=1.5 if fits else None,
                predicted_bytes=1_000_000 + 4_000 * batch_size,
                peak_bytes=1_000_000 + 4_000 * batch_size if fits else None,
                flops_per_example=truth.flops_per_example,
                compiler_flops_per_example=1.1 * truth.flops_per_example,
                moved_bytes_per_example=truth.bytes_per_example,
            )
            if fits or truth.microbatches > 1:
                seconds_per_step = truth.seconds_per_step(batch_size) + extra
                yield from _rounds(truth, common, batch_size, loop, seconds_per_step, random)
    yield from _shared_rounds(truth, common)
    for share in (0.9, 1.0, 0.95):
        matmul = {"quantity": "matmul_flops_per_second", "value": share * truth.matmul_flops_per_second}
        copy = {"quantity": "copy_bytes_per_second", "value": share * truth.copy_bytes_per_second}
        yield Calibration(**common, **matmul, precision="float32")
        yield Calibration(**common, **matmul | {"value": 1e15}, precision="bfloat16")
        yield Calibration(**common, **copy)
    if size := truth.largest_that_fits:
        needed = 1_000_000 + 4_000 * size
        found = {"batch_size": size, "bound": "memory", "confirmed": True, "predicted_bytes": needed}
        yield Limit(**common, memory_bytes=needed + 4_000, **found)
    yield Stage(**common, stage="throughput", seconds=12.0, compilations=2 * len(truth.batch_sizes))


def _shared_rounds(truth, common) -> Iterator[Round]:
    """Yield rounds on several devices. Their noise is drawn separately, so that all other rows stay the same."""
    random = np.random.default_rng(len(truth.devices))
    for devices in truth.devices:
        for batch_size in truth.batch_sizes:
            if batch_size % devices == 0 and batch_size not in truth.out_of_memory:
                shared, seconds = {**common, "devices": devices}, truth.shared_seconds_per_step(batch_size, devices)
                yield from _rounds(truth, shared, batch_size, "scan", seconds, random)


def _rounds(truth, common, batch_size, loop, seconds_per_step, random) -> Iterator[Round]:
    accumulation = truth.microbatches if batch_size in truth.out_of_memory else 1
    for number in range(truth.rounds):
        steps = max(1, math.ceil(0.1 / seconds_per_step))
        seconds = steps * seconds_per_step * math.exp(truth.round_noise * random.standard_normal())
        joules = truth.watts * seconds if truth.watts else None
        yield Round(
            **common,
            batch_size=batch_size,
            loop=loop,
            accumulation=accumulation,
            round=number,
            steps=steps,
            seconds=seconds,
            joules=joules,
        )
