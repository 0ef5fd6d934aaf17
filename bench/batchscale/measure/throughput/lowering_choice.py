"""The lowering that each cell is timed under: the fastest of a trial, which comes before anything is timed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

import msgspec

from batchscale.config import plan
from batchscale.config.vocabulary import CellKey, Precision
from batchscale.measure.control.progress import LOWERINGS_APART
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.measure.session import Session
from batchscale.measure.throughput import rounds
from batchscale.measure.throughput.cells_ahead import compile_cells
from batchscale.measure.throughput.timing import Timing, Tried, tried_at

TRIALS = "choosing lowerings"
"""Name of the trials in the progress line."""


def choose(timing: Timing, keys: Iterable[CellKey]) -> dict[Tried, str | None]:
    """Return the fastest lowering for each batch size and precision at which trials are made for these cells.

    Batch sizes a factor of `LOWERINGS_APART` apart are tried, each on the batch that one device computes at once.
    Choices that `tuning.json` holds are added, for cells that turn out to need microbatches. The program that wins a
    trial is kept in `timing.programs`, so that its cell need not compile it again.
    """
    session = timing.session
    if len(session.lowerings) == 1:
        return {}
    found: dict[Tried, str | None] = {}
    trials = list(dict.fromkeys(tried_at(session, key) for key in keys))
    new = [one for one in trials if _name(session, one) not in session.tuning]
    compile_cells(timing, [(_cell(session, one), lowering) for one in new for lowering in session.lowerings])
    for one in trials:
        session.stopper.check()
        found[one] = session.tuning.get(_name(session, one), partial(_measure, timing, one)).lowering
    precisions: set[Precision] = {precision for _, precision in found}
    for size in plan.spaced(session.batch_sizes, LOWERINGS_APART):
        for precision in precisions:
            if (name := _name(session, (size, precision))) in session.tuning:
                found[size, precision] = session.tuning[name].lowering
    return found


def count_trials(session: Session, keys: Iterable[CellKey]) -> int:
    """Return how many trials `choose` still has to make for these cells."""
    if len(session.lowerings) == 1:
        return 0
    untried = {one for key in keys if _name(session, one := tried_at(session, key)) not in session.tuning}
    return len(untried) * len(session.lowerings)


def _measure(timing: Timing, one: Tried) -> Tuned:
    """Time every lowering and keep the winner's program."""
    session, key, late = timing.session, _cell(timing.session, one), []

    def speed(lowering: str | None) -> float:
        start = time.monotonic()
        try:
            return rounds.examples_per_second(timing, key, lowering)
        except TimeoutError:
            late.append(lowering)
            raise
        finally:
            session.progress.advance(TRIALS, 1, time.monotonic() - start, f"{lowering} B={key.batch_size}")

    found = compiled_programs.fastest(session.lowerings, speed)
    for lowering in session.lowerings:
        if lowering != found.lowering:
            timing.programs.pop((key, lowering), None)
    return msgspec.structs.replace(found, late=tuple(late))


def _cell(session: Session, one: Tried) -> CellKey:
    """Return the cell that is tried."""
    (batch_size, precision), loops = one, session.experiment.throughput.loops
    return CellKey(batch_size, "scan" if "scan" in loops else loops[0], "device", precision)


def _name(session: Session, one: Tried) -> str:
    """Return the key of a choice in `tuning.json`."""
    batch_size, precision = one
    other = "" if precision == session.experiment.workload.precision else f" {precision}"
    return f"throughput {batch_size}{other}"
