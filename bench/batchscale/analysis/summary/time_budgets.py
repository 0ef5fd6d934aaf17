"""The batch size to take for a time: one entry for each time of a grid, and one for a time that was asked for."""

from __future__ import annotations

from batchscale.analysis import number_format
from batchscale.analysis.metrics import time_budgets
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.metrics.time_budgets import Within
from batchscale.analysis.summary_parts import TimeBudget
from batchscale.errors import InputError


def on_grid(of: Sweep) -> list[TimeBudget]:
    """Return the answer for times from the fastest crossing to the longest run; empty without curves and speeds."""
    return [_answer(of, one) for one in time_budgets.within(of, time_budgets.grid(of))]


def asked(of: Sweep, seconds: float) -> TimeBudget:
    """Return the answer for one time.

    Raises:
        InputError: where no batch size was evaluated so early, or the rows hold no curves and speeds.
    """
    found = time_budgets.within(of, [seconds])
    if found:
        return _answer(of, found[0])
    earliest = time_budgets.earliest(of)
    where = of.frames.machine.machine.name
    if earliest is None:
        raise InputError(f"within: {where}: no learning curves with timed rounds, expected some")
    raise InputError(
        f"within: {number_format.seconds(seconds)}, expected at least {number_format.seconds(earliest)},"
        f" when the first batch size was evaluated on {where}"
    )


def _answer(of: Sweep, found: Within) -> TimeBudget:
    best = max(found.scores, key=lambda size: of.goal.rising(found.scores[size]))
    known = of.frames.imported is None or of.frames.imported.learning_rates
    return TimeBudget(
        seconds=found.seconds,
        batch_size=best,
        learning_rate=found.rates[best] if known else None,
        score=found.scores[best],
        tied=found.tied,
        ended=found.ended,
        scores=found.scores,
    )
