"""What is said beside a figure that no caption can know: which limit binds where, whether the timings drifted."""

from __future__ import annotations

from itertools import groupby

from batchscale.analysis import number_format
from batchscale.analysis.metrics.hardware import LEAST_CHANGE, LEAST_SHARE
from batchscale.analysis.summary_types import BatchSizeSummary, CellTrend, Drift, Limit, Summary
from batchscale.config.vocabulary import CellKey

LIMITS: dict[Limit, str] = {
    "arithmetic": "arithmetic",
    "copying": "copying memory",
    "fixed_cost": "the fixed cost of a step",
}
LISTED_CELLS = 3


def silent(_: Summary) -> str:
    """Nothing to add."""
    return ""


def binding(summary: Summary) -> str:
    """Which limit explains most of a step's time at each batch size, and how much of it."""
    cells = [cell for cell in summary.cells if cell.limit_share is not None]
    said = [_bound(limit, list(run)) for limit, run in groupby(cells, key=_limit)]
    return f"What holds a step back: {'; '.join(said)}." if said else ""


def _limit(cell: BatchSizeSummary) -> Limit | None:
    return cell.limited_by


def _bound(limit: Limit | None, cells: list[BatchSizeSummary]) -> str:
    sizes = [cell.batch_size for cell in cells]
    where = f"at B = {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")
    if limit is None:
        return f"{where}, no single limit (none explains {number_format.percent(LEAST_SHARE)} of its time)"
    shares = sorted(cell.limit_share or 0.0 for cell in cells)
    share = number_format.between([shares[0], shares[-1]], number_format.percent)
    return f"{where}, {LIMITS[limit]} ({share} of its time)"


def averaging(summary: Summary) -> str:
    """Whether averaged parameters are better at the accuracy-optimal batch size, as far as seeds tell."""
    best = summary.accuracy_optimal
    cells = [cell for cell in summary.cells if best and cell.batch_size == best.batch_size]
    gain = cells[0].ema_accuracy_gain if cells else None
    if gain is None or gain.median is None:
        return ""
    where, median = f"at batch size {cells[0].batch_size}", f"{number_format.points(gain.median)} points"
    if cells[0].seeds == 1:
        return f"Averaging the parameters {where}: {median} on one seed, which tells nothing of others."
    low, high = gain.interval
    effect = "helps" if (low or 0) > 0 else "hurts" if (high or 0) < 0 else "has no clear effect"
    interval = number_format.between(gain.interval, number_format.points)
    return f"Averaging the parameters {effect} {where}: {median} ({interval}), compared seed by seed."


def without_gradient_noise(summary: Summary) -> str:
    """Which batch sizes tell nothing of the gradient noise."""
    noise = summary.gradient_noise
    if noise is None or noise.batch_sizes is None:
        return ""
    left = [cell.batch_size for cell in summary.cells if cell.seeds and cell.batch_size not in noise.batch_sizes]
    return f"Not known at {number_format.listed(left)}: it takes a batch of several microbatches." if left else ""


def drift(summary: Summary) -> str:
    """Whether rounds grew slower or faster from the first to the last, by how much, and what the sensors say."""
    found = summary.drift
    if found is None:
        return f"Drift: unknown, {summary.drift_reason}." if summary.drift_reason else ""
    return f"Drift over {found.rounds} rounds: {_together(found)}{_apart(found)}{_sensed(found)}."


def _together(found: Drift) -> str:
    moved, test = _moved(found.together.change), f"trend test p = {number_format.number(found.together.p_value, 2)}"
    if found.drifts:
        return f"all cells together grew {moved}, {test}"
    return f"in all cells together none of {number_format.target(LEAST_CHANGE)} or more beyond noise ({moved}, {test})"


def _apart(found: Drift) -> str:
    if not found.cells:
        return ""
    named = [_cell(one) for one in found.cells[:LISTED_CELLS]]
    more = len(found.cells) - len(named)
    return f"; of single cells, {number_format.listed([*named, f'{more} more'] if more else named)}"


def _cell(one: CellTrend) -> str:
    return f"B = {one.batch_size} {one.loop}{CellKey.of(one).variant} grew {_moved(one.change)}"


def _moved(change: float) -> str:
    return f"{number_format.percent(abs(change))} {'slower' if change > 0 else 'faster'}"


def _sensed(found: Drift) -> str:
    """Clock and temperature in the first and in the last round, where the platform told them."""
    said = []
    if found.clock_mhz:
        first, last = map(number_format.number, found.clock_mhz)
        said.append(
            f"the clock went from {first} to {last} MHz" + (", so the device throttled" if found.throttled else "")
        )
    if found.celsius:
        first, last = map(number_format.number, found.celsius)
        said.append(f"the temperature from {first} to {last} °C")
    return f"; {number_format.listed(said)}" if said else ""
