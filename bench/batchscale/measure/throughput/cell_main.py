"""The main function of a child process: one job on standard input, rows on standard output, a limit on memory."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import msgspec

from batchscale.measure.control.child_process import begin
from batchscale.measure.control.failures import FAILURES, failure_of
from batchscale.measure.control.progress import Progress
from batchscale.measure.data.examples import Dataset
from batchscale.measure.data.made_up import made_up_dataset
from batchscale.measure.device import jax_settings
from batchscale.measure.device.machine import available_memory_bytes
from batchscale.measure.session import Session
from batchscale.measure.throughput import max_batch_size, rounds
from batchscale.measure.throughput.cell_process import Job
from batchscale.measure.throughput.cells_ahead import compile_cells
from batchscale.measure.throughput.timing import Timing
from batchscale.records import row_files
from batchscale.records.row_types import AnyRow

RUNTIME_BYTES = 64 << 20
"""Memory of threads and libraries, which the compiler does not count as the program's."""


def main() -> None:
    """Read one job and do it; end when the parent process ends."""
    text, write = begin()
    limit_memory(available_memory_bytes())
    jax_settings.hold()
    job = msgspec.json.decode(text, type=Job)
    if jax.default_backend() != job.platform:
        raise RuntimeError(f"JAX has no {job.platform} here, only {jax.default_backend()}")
    try:
        do(job, lambda row: write(row_files.encode(row)))
    except FAILURES as error:
        sys.exit(failure_of(error).message)


def do(job: Job, append: Callable[[AnyRow], None]) -> None:
    """Time cells, or find the largest batch size."""
    timing = furnish(job, append)
    if job.task == "max_batch_size":
        max_batch_size.search(timing, job.cells[0].key, job.cells[0].lowering, job.memory_bytes)
        return
    compile_cells(timing, [(one.key, one.lowering) for one in job.cells])
    prepared = [rounds.prepare(timing, one.key, one.lowering) for one in job.cells]
    if cells := [cell for cell in prepared if cell is not None]:
        rounds.time_rounds(timing, cells)


def furnish(job: Job, append: Callable[[AnyRow], None]) -> Timing:
    """Return what times cells on made-up examples, whose programs run under the job's limit on memory."""
    session = Session(job.experiment, made_up(job), job.host, Path(), Progress(quiet=True), sources=Path(job.sources))
    timing = Timing(session, append)
    timing.known.block, timing.process = job.block, job.process
    session.progress.plan(timing.item, len(job.cells), 1.0)
    for one in job.cells:
        timing.known.has_rounds(one.key, job.block, one.first_round)
        timing.known.has_rounds(one.key, -1, one.other_rounds)
    if job.host.policy.in_host_memory:
        timing.confine = lambda: limit_memory(job.memory_bytes + RUNTIME_BYTES - _live_bytes())
    else:
        timing.memory_bytes = job.memory_bytes
    return timing


def made_up(job: Job) -> Dataset:
    """Return a training set of the right shape."""
    return made_up_dataset(job.examples, job.experiment.workload.dataset, job.train_examples)


def limit_memory(further_bytes: int) -> None:
    """Let the data of this process grow by at most `further_bytes`, so that it fails before the machine does."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmData:\s*(\d+) kB", status, re.MULTILINE)
    has = int(found[1]) << 10 if found else 0
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = has + max(0, further_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _live_bytes() -> int:
    """Return the bytes of all arrays: examples and parameters, which the compiler counts as the program's."""
    return sum(array.nbytes for array in jax.live_arrays())


if __name__ == "__main__":
    main()
