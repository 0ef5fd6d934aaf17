"""Whether timed rounds grew slower or faster while they were taken, and what the clock and the temperature did.

Rounds are interleaved over cells, so round k of every cell was timed in one sweep over all of them. The trend of all
cells together is that of their median in each sweep, which stays a fair test where something slows a whole sweep; each
cell is tested on its own, too (Mann, 1945; Kendall, 1975). A folder without drift is called drifting with a probability
of at most FALSE_ALARM_RATE: half of it is spent on all together, half on the single cells, corrected for their number
(Holm, 1979).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd
from scipy import special

from batchscale.analysis.frames.schema import CELL, only, values
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import CellTrend, Drift, Trend

FALSE_ALARM_RATE = 0.05
LEAST_CHANGE = 0.02
"""From the first round to the last; a smaller trend changes no answer, however sure it is."""
FEWEST_ROUNDS = 5
MOST_EXACT = 30
"""Rounds up to which the distribution of the trend's score is computed and not taken as normal."""


def drift(rounds: pd.DataFrame) -> Drift | None:
    """The trend of a folder's rounds; None where no cell has FEWEST_ROUNDS of them."""
    seconds = _by_sweep(rounds, "seconds_per_step")
    if seconds.empty:
        return None
    together = trend(_median_of_cells(seconds))
    clock = _by_sweep(rounds, "clock_mhz")
    slowing = trend(_median_of_cells(clock)) if len(clock) else None
    return Drift(
        rounds=len(seconds),
        together=together,
        drifts=_matters(together, FALSE_ALARM_RATE / 2),
        cells=_drifting_cells(seconds),
        throttled=slowing is not None and slowing.change < 0 and _matters(slowing, FALSE_ALARM_RATE),
        clock_mhz=_first_and_last(rounds, "clock_mhz"),
        celsius=_first_and_last(rounds, "celsius"),
    )


def trend(logarithms: Array) -> Trend:
    """The trend of a series (rounds,): Theil and Sen's slope over its length, and the Mann-Kendall test of it."""
    earlier, later = np.triu_indices(len(logarithms), 1)
    differences = logarithms[later] - logarithms[earlier]
    change = np.expm1(np.median(differences / (later - earlier)) * (len(logarithms) - 1))
    return Trend(change=float(change), p_value=_p_value(float(np.sign(differences).sum()), len(logarithms)))


def _p_value(score: float, count: int) -> float:
    """How often a series without trend has a score (rising pairs less falling ones) so far from zero."""
    pairs = count * (count - 1) // 2
    if count > MOST_EXACT:
        deviation = np.sqrt(pairs * (2 * count + 5) / 9)
        return float(min(1.0, 2 * special.ndtr(-(abs(score) - 1) / deviation)))
    ways = np.ones(1)
    for length in range(2, count + 1):  # a further value may fall below any number of those before it
        ways = np.convolve(ways, np.ones(length)) / length
    scores = pairs - 2 * np.arange(pairs + 1)
    return float(min(1.0, ways[np.abs(scores) >= abs(score)].sum()))


def _matters(found: Trend, rate: float) -> bool:
    return found.p_value <= rate and abs(found.change) >= LEAST_CHANGE


def _by_sweep(rounds: pd.DataFrame, column: str) -> pd.DataFrame:
    """Logarithms of a column, one row per round and one column per cell that has FEWEST_ROUNDS of them."""
    known = only(rounds, values(rounds, column) > 0)
    known = known.assign(logarithm=np.log(values(known, column)))
    table = known.pivot_table(index="round", columns=list(CELL), values="logarithm", aggfunc="last")
    return table.loc[:, table.count() >= FEWEST_ROUNDS].dropna(how="all")


def _median_of_cells(table: pd.DataFrame) -> Array:
    """In each round, the median over cells of how far each lies from its own median."""
    relative = table.to_numpy() - np.nanmedian(table.to_numpy(), axis=0)
    return np.nanmedian(relative, axis=1)


def _drifting_cells(table: pd.DataFrame) -> list[CellTrend]:
    """The cells whose trend matters once it is held against how many were tested, the surest first."""
    found = [(cell, trend(column.dropna().to_numpy())) for cell, column in table.items()]
    found.sort(key=lambda one: one[1].p_value)
    kept = []
    for tested, (cell, one) in enumerate(found):
        if one.p_value > FALSE_ALARM_RATE / 2 / (len(found) - tested):
            break
        if abs(one.change) >= LEAST_CHANGE:
            which = dict(zip(CELL, cast(tuple, cell), strict=True))
            kept.append(CellTrend(**which, change=one.change, p_value=one.p_value))
    return kept


def _first_and_last(rounds: pd.DataFrame, column: str) -> tuple[float, float] | None:
    """The medians over cells of what a sensor read in the first and in the last round that it was read in."""
    read = only(rounds, rounds[column].notna())
    if read.empty:
        return None
    by_round = read.groupby("round")[column].median()
    return float(by_round.iloc[0]), float(by_round.iloc[-1])
