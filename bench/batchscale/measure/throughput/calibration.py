"""Calibration: the peak rates of the device, and whether a folder goes on where it was begun.

Machines, such as those of a cloud, may share a name but not a speed. A run that continues a folder measures its matrix
products again; rows hold both values, and `machine.json` the best.
"""

from __future__ import annotations

import time

import jax
import msgspec

from batchscale.measure.control.progress import SECONDS_PER_CALIBRATION
from batchscale.measure.device import peak_rates
from batchscale.measure.throughput.timing import Timing
from batchscale.printable import reason
from batchscale.records import results_folder
from batchscale.records.row_types import Calibration

ITEM = "calibration"
"""Name of the calibration in the progress line."""
SAME_SPEED = 1.5
"""Rates of one machine that is not busy, measured twice, differ by less than this factor."""


def plan(timing: Timing, *, again: bool) -> None:
    """Plan the progress line for the rates that are to be measured; `again` as for `measure`."""
    timing.session.progress.plan(ITEM, len(_to_measure(timing, again=again)) * SECONDS_PER_CALIBRATION, 1.0)


def measure(timing: Timing, *, again: bool) -> None:
    """Append the rows of the peak rates; a rate at which the device fails has none.

    Args:
        timing: Where rows go.
        again: True if matrix products are measured although they are known, as cells are timed from now on.
    """
    session, memory_bytes = timing.session, timing.session.host.free_memory_bytes()
    for part in _to_measure(timing, again=again):
        session.stopper.check()
        start = time.perf_counter()
        try:
            found = peak_rates.measure(part, memory_bytes, timing.clock)
        except jax.errors.JaxRuntimeError as error:
            found = []
            session.progress.say(f"{part.quantity} was not measured: {reason(error)}")
        before = _known(timing, part)
        if before and found and not 1 / SAME_SPEED <= max(found) / before <= SAME_SPEED:
            session.progress.say(
                f"{part.quantity} is {max(found):.3g} now, and earlier runs in this folder had {before:.3g}: this is"
                " another machine of the same name, or other programs slow one of the runs"
            )
        origin = msgspec.structs.asdict(session.origin())
        for value in found:
            timing.append(Calibration(**origin, quantity=part.quantity, precision=part.precision, value=value))
        seconds = time.perf_counter() - start
        session.progress.advance(ITEM, SECONDS_PER_CALIBRATION, seconds, part.quantity)
    session.progress.close(ITEM)


def note(timing: Timing) -> None:
    """Write the best of each rate into the `machine.json` of the folder.

    Raises:
        InputError: When it cannot be written.
    """
    rated = [part for part in peak_rates.PARTS if part.quantity.endswith("_per_second")]
    named = {" ".join(filter(None, part[:2])): _known(timing, part) for part in rated}
    if known := {name: rate for name, rate in named.items() if rate}:
        results_folder.note_peak_rates(timing.session.folder, known)


def _to_measure(timing: Timing, *, again: bool) -> list[peak_rates.Part]:
    """Return the rates that were not measured in this environment yet, and matrix products if wanted again."""
    once_more = ("matmul_flops_per_second", timing.session.experiment.workload.precision) if again else None
    return [part for part in peak_rates.PARTS if part[:2] == once_more or _known(timing, part) is None]


def _known(timing: Timing, part: peak_rates.Part) -> float | None:
    here = timing.session.host.environment_hash
    return timing.known.peak_rates.get((part.quantity, part.precision, here))
