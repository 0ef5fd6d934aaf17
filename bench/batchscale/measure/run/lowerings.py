"""The lowering that each tier trains in and each cell is timed in: the fastest, tried once for a results folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial

from batchscale.config import plan
from batchscale.config.vocabulary import CellKey, Precision
from batchscale.measure.control.progress import LOWERINGS_APART, SECONDS_PER_LOWERING
from batchscale.measure.device import tuning_file
from batchscale.measure.session import Session
from batchscale.measure.throughput import rounds
from batchscale.measure.throughput.context import Laboratory

TRIALS = "choosing lowerings"
"""How the progress line names the trials of cells."""

Choice = tuple[int, Precision]
"""The batch size that is tried, and in which precision."""


def announce_of_cells(session: Session, keys: Sequence[CellKey]) -> None:
    """Plan the progress line for the trials that these cells still need."""
    if len(session.lowerings) > 1:
        untried = {one for one in (_choice(session, key) for key in keys) if _name(session, one) not in session.tuning}
        trials = len(untried) * len(session.lowerings)
        session.progress.plan(TRIALS, trials, 1 / SECONDS_PER_LOWERING)


def of_cells(session: Session, laboratory: Laboratory, missing: Sequence[CellKey]) -> Callable[[CellKey], str | None]:
    """The fastest lowering of a precision at a device's part of the batch, tried at sizes a factor of 4 apart.

    Those that are `missing` were announced; any cell may be asked for.
    """
    loops = session.experiment.throughput.loops
    loop = "scan" if "scan" in loops else loops[0]

    def speed(choice: Choice, lowering: str | None) -> float:
        batch_size, precision = choice
        start = time.monotonic()
        try:
            return rounds.examples_per_second(laboratory, CellKey(batch_size, loop, "device", precision), lowering)
        finally:
            session.progress.advance(TRIALS, 1, time.monotonic() - start, f"{lowering} B={batch_size}")

    @cache
    def fastest(choice: Choice) -> str | None:
        laboratory.tried.clear()
        measure = partial(tuning_file.fastest, session.lowerings, partial(speed, choice))
        return session.tuning.get(_name(session, choice), measure).lowering

    def lowering_of(key: CellKey) -> str | None:
        return fastest(_choice(session, key)) if len(session.lowerings) > 1 else session.lowerings[0]

    announce_of_cells(session, missing)
    return lowering_of


def _choice(session: Session, key: CellKey) -> Choice:
    tried = plan.spaced(session.batch_sizes, LOWERINGS_APART)
    reached = [size for size in tried if size <= key.examples_at_once]
    return max(reached, default=tried[0]), key.precision


def _name(session: Session, choice: Choice) -> str:
    batch_size, precision = choice
    other = "" if precision == session.experiment.workload.precision else f" {precision}"
    return f"throughput {batch_size}{other}"
