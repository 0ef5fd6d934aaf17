"""The largest batch size whose step fits into memory: predicted by the compiler, confirmed by running a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec

from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import Failure
from batchscale.measure.device.compiled_programs import Work, predicted_bytes
from batchscale.measure.throughput.cell_process import Child, ChildError
from batchscale.measure.throughput.timed_loops import build
from batchscale.measure.throughput.timing import Timing
from batchscale.records.row_types import Limit

ITEM = "max batch size"
"""Name of the search in the progress line."""
ONE_PROCESS = Failure("failed", "a TPU serves one process at a time, so no child process can search for it")
LARGEST = 1 << 24
"""Largest batch size that is tried where the training set is no bound."""
RESOLUTION = 64
"""The answer is at most 1/RESOLUTION below the largest batch size that fits."""
MOST_COMPILATIONS = 24
MOST_TRIES = 4
"""Child processes that are started at most."""
SHRINKING = 0.75
"""Factor by which the batch size shrinks for the next try, if a step did not fit as the compiler predicted it would.

The prediction does not include the memory that libraries take.
"""
SHRINKING_UNSEEN = 4
"""Divisor of the largest batch size that is tried next, if not even compiling fitted into memory."""


def measure(timing: Timing, whole: CellKey) -> None:
    """Find the largest batch size, up to that of the `whole` cell; a row holds it, or why there is none."""
    session, start, memory_bytes = timing.session, time.monotonic(), timing.memory_bytes or 0

    def child(most: int) -> Child:
        session.stopper.check()
        key = msgspec.structs.replace(whole, batch_size=most)
        return timing.child("max_batch_size", [(key, timing.lowering(key))])

    found = find(child, whole.batch_size) if timing.isolates else ONE_PROCESS
    if not isinstance(found, Limit):
        origin = msgspec.structs.asdict(session.origin())
        found = Limit(**origin, precision=whole.precision, memory_bytes=memory_bytes, message=found.message)
    timing.append(found)
    session.progress.advance(ITEM, 1, time.monotonic() - start)
    session.progress.close(ITEM)


def largest_that_fits(
    bytes_of: Callable[[int], int], start: int, largest: int, memory_bytes: int
) -> tuple[int, int] | None:
    """Find the largest batch size that fits, with few calls of the costly `bytes_of`.

    The batch size is doubled from `start` until it does not fit. The bracket then shrinks along the line through both
    ends, as bytes are nearly affine in the batch size, and by bisection of octaves wherever that left more than half.

    Args:
        bytes_of: Returns the bytes that a step of a number of examples needs.
        start: The first batch size tried.
        largest: The largest batch size allowed.
        memory_bytes: The memory to fit into.

    Returns:
        A size that fits, at most 1/RESOLUTION below the largest that does, and its bytes; None if none fits.
    """
    known: dict[int, int] = {}

    def needs(size: int) -> int:
        if size not in known:
            known[size] = bytes_of(size)
        return known[size]

    high = start
    while needs(high) <= memory_bytes:
        if high >= largest:
            return high, known[high]
        high = min(2 * high, largest)
    low, straight = max((size for size in known if known[size] <= memory_bytes), default=1), True
    if needs(low) > memory_bytes:
        return None
    while high - low > max(1, low // RESOLUTION) and len(known) < MOST_COMPILATIONS:
        along = (memory_bytes - known[low]) / max(1, known[high] - known[low])
        aim = low + int((high - low) * along) if straight else math.isqrt(low * high)
        margin, before = max(1, aim // RESOLUTION), high / low
        size = min(max(low + margin, min(aim, high - margin)), high - 1)
        low, high = (size, high) if needs(size) <= memory_bytes else (low, size)
        straight = (high / low) ** 2 <= before
    return low, known[low]


def search(timing: Timing, key: CellKey, lowering: str | None, memory_bytes: int) -> None:
    """Search by compiling only, then run one step: a row is written before that step, and another after it.

    Args:
        timing: Of a child process, whose death the first row survives.
        key: The cell whose batch size is the largest one allowed.
        lowering: The lowering of every step tried.
        memory_bytes: The memory to fit into.
    """
    session, most = timing.session, key.batch_size
    train_examples = len(session.splits[0].labels)
    works: dict[int, Work] = {}

    def bytes_of(size: int) -> int:
        tried = msgspec.structs.replace(key, batch_size=size)
        works[size], compiled, _ = build(session.learner(key.precision, lowering), session.splits[0], tried)
        return predicted_bytes(compiled) or 0

    found = largest_that_fits(bytes_of, min(train_examples, most), most, memory_bytes)
    shared = {
        **msgspec.structs.asdict(session.origin()),
        "precision": key.precision,
        "memory_bytes": memory_bytes,
    }
    if found is None:
        return timing.append(Limit(**shared, message="not even one example fits"))
    size, needed = found
    ends = size == train_examples and session.experiment.throughput.max_batch_size == "training_set"
    bound = "training_set" if ends else "memory"
    row = Limit(**shared, batch_size=size, bound=bound, predicted_bytes=needed or None)
    timing.append(row)
    timing.confine()
    works[size](1)
    return timing.append(msgspec.structs.replace(row, confirmed=True))


def find(child_of: Callable[[int], Child], largest: int, tries: int = MOST_TRIES) -> Limit | Failure:
    """Return the largest batch size up to `largest`, or why there is none; each try runs in a child process."""
    found, failure = _try(child_of(largest))
    tried = found.batch_size if found else None
    smaller = int(tried * SHRINKING) if tried else largest // SHRINKING_UNSEEN
    if failure and failure.status == "out_of_memory" and tries > 1 and smaller >= 1:
        return find(child_of, smaller, tries - 1)
    if found is None:
        return failure or Failure("failed", "its process wrote no row")
    return msgspec.structs.replace(found, message=failure.message) if failure else found


def _try(child: Child) -> tuple[Limit | None, Failure | None]:
    """Return the last row of one try, and the failure that ended it early."""
    found = None
    try:
        with child as opened:
            for row in opened.rows():
                if isinstance(row, Limit):
                    found = row
    except ChildError as error:
        return found, error.failure
    return found, None
