"""What a session gives to processes of their own: cells that may not fit, and the search for the largest batch size."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import msgspec

from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import Failure
from batchscale.measure.control.progress import MAX_BATCH_SIZE_SECONDS
from batchscale.measure.session import Session
from batchscale.measure.throughput import max_batch_size
from batchscale.measure.throughput.child_process import Child, Job
from batchscale.measure.throughput.context import Laboratory, Open
from batchscale.records import results_folder
from batchscale.records.row_types import Limit

MAX_BATCH_SIZE = "max batch size"
"""How the progress line names the search for it."""
ONE_PROCESS = Failure("failed", "a TPU serves one process at a time, so no process of its own could look for it")


def isolated(session: Session, memory_bytes: int) -> Open | None:
    """Opens a process that times one cell in so much memory; None where one process has the device to itself."""
    if _serves_one_process(session):
        return None

    def opened(key: CellKey, lowering: str | None, first_round: int) -> Child:
        return Child(_job(session, memory_bytes, task="time", key=key, lowering=lowering, first_round=first_round))

    return opened


def _serves_one_process(session: Session) -> bool:
    return session.host.policy.single_process


def lacks_max_batch_size(session: Session) -> bool:
    """Whether the largest batch size is still to be found; one that was not confirmed counts as failed."""
    if session.experiment.throughput.max_batch_size == "skip":
        return False
    known = [row for row in session.rows(results_folder.THROUGHPUT) if isinstance(row, Limit)]
    return not known or (session.retries_failed and not known[-1].confirmed)


def announce_max_batch_size(session: Session) -> None:
    """Plan the progress line for the search, where it is still to do."""
    if lacks_max_batch_size(session):
        session.progress.plan(MAX_BATCH_SIZE, 1, 1 / MAX_BATCH_SIZE_SECONDS)


def find_max_batch_size(session: Session, laboratory: Laboratory, lowering_of: Callable[[CellKey], str | None]) -> None:
    """Find it for the dispatched step; one row tells what it is, or why there is none."""
    table, precision = session.experiment.throughput, session.experiment.workload.precision
    memory_bytes = laboratory.memory_bytes or 0

    def child(largest: int) -> Child:
        session.stopper.check()
        key = CellKey(largest, "dispatch", precision=precision)
        return Child(_job(session, memory_bytes, task="max_batch_size", key=key, lowering=lowering_of(key)))

    announce_max_batch_size(session)
    start = time.monotonic()
    largest = session.train_examples if table.max_batch_size == "training_set" else max_batch_size.LARGEST
    found = ONE_PROCESS if _serves_one_process(session) else max_batch_size.find(child, largest)
    if not isinstance(found, Limit):
        origin = msgspec.structs.asdict(session.origin())
        found = Limit(**origin, precision=precision, memory_bytes=memory_bytes, message=found.message)
    laboratory.append(found)
    session.progress.advance(MAX_BATCH_SIZE, 1, time.monotonic() - start)
    session.progress.close(MAX_BATCH_SIZE)


def _job(session: Session, memory_bytes: int, **task: Any) -> Job:
    """What a process of its own has to know of this session."""
    return Job(
        experiment=session.experiment,
        origin=session.origin(),
        platform=jax.default_backend(),
        input_shape=list(session.dataset.input_shape),
        classes=session.dataset.classes,
        train_examples=session.train_examples,
        memory_bytes=memory_bytes,
        **task,
    )
