"""What the timed rounds show about the machine: the limits that bind a step, several devices, and drift.

Drift: rounds are interleaved over timed cells, so round k of every cell was timed in one pass over all of them. The
cells are tested together by the trend of their median in each round. This test stays valid if something slows a whole
round. Each cell is also tested alone (Mann, 1945; Kendall, 1975). The probability that a folder without drift is called
drifting is at most FALSE_ALARM_RATE: half of it is spent on all cells together, half on the single cells, corrected for
their number (Holm, 1979).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from scipy import special, stats

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import CELL, only, values
from batchscale.analysis.metrics import observations
from batchscale.analysis.metrics.observations import Speed
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import (
    BatchSizeSummary,
    Ceilings,
    CellTrend,
    Drift,
    Limit,
    ParallelPoint,
    Summary,
    Trend,
)
from batchscale.statistics.intervals import Array, finite

LEAST_SHARE = 0.5
"""A limit binds where it explains at least this share of the time of a step."""
MOST_SHARE = 1.1
"""A limit that would take more than this share of the time of a step is ignored: caches served part of the bytes."""


class Use(NamedTuple):
    """How much of the machine one batch size uses; None where it was not measured.

    Attributes:
        flops_per_second: FLOPs of the model per second of training.
        fraction_of_peak: `flops_per_second` over the calibrated rate of matrix products.
        flops_per_byte: FLOPs of the model per byte that the compiled program reads or writes.
        limited_by: the limit that explains most of a step, where it explains at least LEAST_SHARE.
        limit_share: the share of the time of a step that this limit explains.
    """

    flops_per_second: float | None = None
    fraction_of_peak: float | None = None
    flops_per_byte: float | None = None
    limited_by: Limit | None = None
    limit_share: float | None = None


def ceilings(frames: Frames) -> Ceilings | None:
    """Return the best rounds of the calibration, in the precision that was trained in; None without calibration."""
    if not len(frames.calibrations):
        return None
    return Ceilings(
        matmul_flops_per_second=peak(frames, frames.experiment.workload.precision),
        copy_bytes_per_second=_largest(frames, "copy_bytes_per_second"),
        timer_resolution_seconds=_largest(frames, "timer_resolution_seconds"),
    )


def peak(frames: Frames, precision: str) -> float | None:
    """Return the FLOP/s of large matrix products in a precision; None where it was not calibrated."""
    return _largest(frames, "matmul_flops_per_second", precision)


def uses(sweep: Sweep) -> list[Use]:
    """Return how much of the machine every batch size of the sweep uses, in order."""
    top = ceilings(sweep.frames) or Ceilings()
    fit = sweep.step_seconds_fit.knee
    fixed_seconds = fit.scale if fit else np.nan
    found = []
    for size, seconds in zip(sweep.sizes.tolist(), np.exp(sweep.step_seconds.medians).tolist(), strict=True):
        compiled = observations.compiled(sweep.frames, size, sweep.speeds.get(size))
        flops, moved = (size * compiled[name] for name in ("flops_per_example", "moved_bytes_per_example"))
        least: dict[Limit, float] = {
            "arithmetic": flops / (top.matmul_flops_per_second or np.nan),
            "copying": moved / (top.copy_bytes_per_second or np.nan),
            "fixed_cost": fixed_seconds,
        }
        found.append(_use(flops, moved, seconds, least))
    return found


def _use(flops: float, moved: float, seconds: float, least: Mapping[Limit, float]) -> Use:
    """Describe how a step that takes `seconds` uses the machine.

    `least` gives, for each limit, the seconds that a step would take under this limit alone.
    """
    shares: dict[Limit, float] = {limit: alone / seconds for limit, alone in least.items()}
    share = shares["arithmetic"]
    limit, most = _binding(shares)
    return Use(finite(flops / seconds), finite(share), finite(flops / moved) if moved else None, limit, most)


def _binding(shares: Mapping[Limit, float]) -> tuple[Limit | None, float | None]:
    """Return the limit that explains most of a step and its share, of those known; None without that of arithmetic.

    Rows of earlier versions hold no count of the bytes that a step moves.
    """
    if not np.isfinite(shares["arithmetic"]):
        return None, None
    possible: dict[Limit, float] = {limit: share for limit, share in shares.items() if share <= MOST_SHARE}
    if not possible:
        return None, None
    limit: Limit = max(possible, key=lambda one: possible[one])
    return (limit if possible[limit] >= LEAST_SHARE else None), possible[limit]


def _largest(frames: Frames, quantity: str, precision: str | None = None) -> float | None:
    rows = only(frames.calibrations, frames.calibrations["quantity"] == quantity)
    rows = only(rows, rows["precision"] == precision) if precision else rows
    return float(values(rows, "value").max()) if len(rows) else None


def roofline_cells(summary: Summary) -> list[BatchSizeSummary]:
    """Return the batch sizes whose share of the peak and bytes moved are both known."""
    return [cell for cell in summary.cells if cell.fraction_of_peak and cell.flops_per_byte]


def on_several_devices(of: Sweep) -> list[ParallelPoint]:
    """Return every batch size that was timed on several devices, ordered by the number of devices."""
    alone = {size: _examples_per_second(size, speed) for size, speed in of.speeds.items()}
    epochs = _epochs_to_target(of)
    return [
        _point(of.frames, size, devices, _examples_per_second(size, speed), alone, epochs)
        for devices in device_counts(of.frames)
        for size, speed in sorted(observations.fastest_loops(of.frames, devices).items())
    ]


def device_counts(frames: Frames) -> list[int]:
    """Return the numbers of devices above one that rounds were timed on."""
    return [count for count in np.unique(values(frames.rounds, "devices")).astype(int).tolist() if count > 1]


def _examples_per_second(batch_size: int, speed: Speed) -> float:
    return batch_size / float(np.exp(observations.log_seconds(speed).median))


def _epochs_to_target(of: Sweep) -> dict[int, float]:
    """Return the median epochs of the batch sizes that reached the target."""
    medians = of.training.medians
    reached = np.isfinite(medians)
    epochs = np.exp(medians[reached]) / of.amounts.per("epochs")
    return dict(zip(of.sizes[reached].tolist(), epochs.tolist(), strict=True))


def _point(
    frames: Frames, batch_size: int, devices: int, speed: float, alone: dict[int, float], epochs: dict[int, float]
) -> ParallelPoint:
    same, part = alone.get(batch_size), alone.get(batch_size // devices)
    needed, before = epochs.get(batch_size), epochs.get(batch_size // devices)
    return ParallelPoint(
        devices=devices,
        batch_size=batch_size,
        examples_per_second=speed,
        strong_efficiency=speed / (devices * same) if same else None,
        weak_efficiency=speed / (devices * part) if part else None,
        updates_per_epoch=frames.train_examples / batch_size if frames.train_examples else None,
        epochs_to_target=needed,
        epochs_ratio=needed / before if needed and before else None,
        time_to_target=needed * frames.amounts.per("epochs") / speed if needed else None,
    )


FALSE_ALARM_RATE = 0.05


LEAST_CHANGE = 0.02
"""Relative change from the first round to the last below which a trend is ignored: it would change no answer."""


FEWEST_ROUNDS = 5
"""Rounds that a cell needs for a trend test; with 4, even a strict order has a probability of 2/24."""


MOST_EXACT = 30
"""Rounds up to which the distribution of the score is computed exactly; above, the normal limit is used."""


def drift(rounds: pd.DataFrame) -> Drift | None:
    """Test the rounds of a folder for a trend; None where no cell has FEWEST_ROUNDS of them."""
    seconds = _by_round(rounds, "seconds_per_step")
    if seconds.empty:
        return None
    together = trend(_median_of_cells(seconds))
    clock = _by_round(rounds, "clock_mhz")
    slowing = trend(_median_of_cells(clock)) if len(clock) else None
    return Drift(
        rounds=len(seconds),
        together=together,
        drifts=_matters(together, FALSE_ALARM_RATE / 2),
        cells=_drifting_cells(seconds),
        throttled=slowing is not None and slowing.change < 0 and _matters(slowing, FALSE_ALARM_RATE),
        clock_mhz=_first_and_last(rounds, "clock_mhz"),
        celsius=_first_and_last(rounds, "celsius"),
        off_clock=_off_clock(values(rounds, "clock_mhz")),
        disturbed=int((values(rounds, "other_processes") > 0).sum()),
    )


CLOCK_TOLERANCE = 0.03
"""Relative distance of a clock from the median of all rounds that is pointed out."""


def _off_clock(clocks: Array) -> int:
    known = clocks[clocks > 0]
    return int((np.abs(known / np.median(known) - 1) > CLOCK_TOLERANCE).sum()) if len(known) else 0


def trend(logarithms: Array) -> Trend:
    """Return the trend of a series (rounds,): Theil and Sen's slope over its length, and its Mann-Kendall test."""
    rounds = np.arange(len(logarithms))
    slope, *_ = stats.theilslopes(logarithms, rounds)
    earlier, later = np.triu_indices(len(logarithms), 1)
    score = float(np.sign(logarithms[later] - logarithms[earlier]).sum())
    return Trend(change=float(np.expm1(slope * rounds[-1])), p_value=_p_value(score, len(logarithms)))


def _p_value(score: float, count: int) -> float:
    """Return the probability that a series without trend has a score at least this far from zero.

    The score is the number of rising pairs minus the number of falling pairs. A tied pair counts as neither, which
    makes the test conservative. Medians over cells tie often, and the exact test of `scipy.stats.kendalltau` accepts no
    ties.
    """
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


def _by_round(rounds: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return logarithms of a column, one row per round and one column per cell that has FEWEST_ROUNDS of them."""
    known = only(rounds, values(rounds, column) > 0)
    known = known.assign(logarithm=np.log(values(known, column)))
    table = known.pivot_table(index="round", columns=list(CELL), values="logarithm", aggfunc="last")
    return table.loc[:, table.count() >= FEWEST_ROUNDS].dropna(how="all")


def _median_of_cells(table: pd.DataFrame) -> Array:
    """Return, for each round, the median over cells of the difference of each cell from its median over rounds."""
    relative = table.to_numpy() - np.nanmedian(table.to_numpy(), axis=0)
    return np.nanmedian(relative, axis=1)


def _drifting_cells(table: pd.DataFrame) -> list[CellTrend]:
    """Return the cells whose trend matters after correction for the number of tests, the surest first."""
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
    """Return the medians over cells of a sensor's readings in the first and in the last round that has any."""
    read = only(rounds, rounds[column].notna())
    if read.empty:
        return None
    by_round = read.groupby("round")[column].median()
    return float(by_round.iloc[0]), float(by_round.iloc[-1])
