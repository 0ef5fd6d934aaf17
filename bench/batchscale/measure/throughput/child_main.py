"""The main function of a child process: one job on standard input, rows on standard output, a limit on its memory."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from threading import Thread

import jax
import msgspec
import numpy as np

from batchscale.config.vocabulary import Precision
from batchscale.measure.control.failures import FAILURES, failure_of
from batchscale.measure.control.progress import Progress
from batchscale.measure.device import sensors
from batchscale.measure.device.machine import available_memory_bytes, platform_name
from batchscale.measure.device.platform_policy import POLICIES
from batchscale.measure.throughput import max_batch_size, rounds
from batchscale.measure.throughput.child_process import Job
from batchscale.measure.throughput.context import Laboratory
from batchscale.measure.training.learner import Examples, Learner, make_learner, on_device
from batchscale.records import row_files
from batchscale.records.row_types import AnyRow, Origin

RUNTIME_BYTES = 64 << 20
"""What threads and libraries take besides, which the compiler does not count as the program's."""


def main() -> None:
    """Read one job, do it, and end with the process that gave it."""
    append = _rows_on(os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no row
    limit_memory(available_memory_bytes())
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    Thread(target=_end_with_parent, daemon=True).start()
    if jax.default_backend() != job.platform:
        raise RuntimeError(f"JAX has no {job.platform} here, only {jax.default_backend()}")
    try:
        do(job, append)
    except FAILURES as error:
        sys.exit(failure_of(error).message)


def do(job: Job, append: Callable[[AnyRow], None]) -> None:
    """Time a cell, or find the largest batch size."""
    laboratory = furnish(job, append)
    if job.task == "max_batch_size":
        max_batch_size.search(laboratory, job.key, job.lowering, job.memory_bytes)
    elif cell := rounds.prepare(laboratory, job.key, job.lowering):
        rounds.time_rounds(laboratory, [cell])


def furnish(job: Job, append: Callable[[AnyRow], None]) -> Laboratory:
    """A laboratory with made-up examples, whose programs run under the job's limit on memory."""
    confined = POLICIES[platform_name(job.platform)].in_host_memory

    def learner(precision: Precision, lowering: str | None) -> Learner:
        workload = msgspec.structs.replace(job.experiment.workload, precision=precision)
        return make_learner(workload, tuple(job.input_shape), job.classes, lowering, job.experiment.searched)

    def origin() -> Origin:
        return msgspec.structs.replace(job.origin, recorded=datetime.now(UTC).isoformat(timespec="seconds"))

    progress = Progress(quiet=True)
    progress.plan("timing", 1, 1.0)
    laboratory = Laboratory(
        experiment=job.experiment,
        learner=learner,
        split=made_up(job),
        origin=origin,
        append=append,
        progress=progress,
        check=lambda: None,
        sensors=cache(partial(sensors.find, job.platform)),
        memory_bytes=None if confined else job.memory_bytes,
        confine=(lambda: limit_memory(job.memory_bytes + RUNTIME_BYTES - _live_bytes())) if confined else lambda: None,
    )
    laboratory.attempts.rounds[job.key] = job.first_round
    return laboratory


def made_up(job: Job) -> Examples:
    """A training set of the right shape; uniform inputs, as denormal ones might be slow."""
    random = np.random.default_rng(0)
    inputs = random.random((job.train_examples, *job.input_shape), np.float32)
    return on_device(inputs, random.integers(0, job.classes, job.train_examples, np.int32))


def limit_memory(further_bytes: int) -> None:
    """Let this process take so many bytes beyond what it has; then it is refused memory, and not the machine."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmData:\s*(\d+) kB", status, re.MULTILINE)
    has = int(found[1]) << 10 if found else 0
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = has + max(0, further_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _live_bytes() -> int:
    """What the examples and the parameters take, which the compiler counts as the program's."""
    return sum(array.nbytes for array in jax.live_arrays())


def _rows_on(descriptor: int) -> Callable[[AnyRow], None]:
    def append(row: AnyRow) -> None:
        os.write(descriptor, row_files.encode(row))

    return append


def _end_with_parent() -> None:
    """Standard input ends when the parent does, however that came about."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
