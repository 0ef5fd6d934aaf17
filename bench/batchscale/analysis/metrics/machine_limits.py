"""How much of the machine each batch size uses, and which of its measured limits explains the time of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics import claim_trials
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.statistics.intervals import finite
from batchscale.analysis.summary_types import Ceilings, CellSummary, Limit, Summary

LEAST_SHARE = 0.5
"""A limit binds where it explains this share of a step's time."""
MOST_SHARE = 1.1
"""Where a limit would take longer than the step did, it is none: caches served what was not copied from memory."""


class Use(NamedTuple):
    """What one batch size makes of the machine; None where it was not measured."""

    flops_per_second: float | None = None
    fraction_of_peak: float | None = None
    flops_per_byte: float | None = None
    limited_by: Limit | None = None
    limit_share: float | None = None


def ceilings(frames: Frames) -> Ceilings | None:
    """The best rounds of the calibration, products in the precision that was trained in; None without any."""
    if not len(frames.calibrations):
        return None
    return Ceilings(
        matmul_flops_per_second=peak(frames, frames.experiment.workload.precision),
        copy_bytes_per_second=_largest(frames, "copy_bytes_per_second"),
        timer_resolution_seconds=_largest(frames, "timer_resolution_seconds"),
    )


def peak(frames: Frames, precision: str) -> float | None:
    """FLOP/s of large matrix products in a precision; None where that was not calibrated."""
    return _largest(frames, "matmul_flops_per_second", precision)


def uses(sweep: Sweep) -> list[Use]:
    """What every batch size of the sweep makes of the machine."""
    top = ceilings(sweep.frames) or Ceilings()
    fit = sweep.step_seconds_fit.knee
    fixed_seconds = fit.scale if fit else np.nan
    found = []
    for size, seconds in zip(sweep.sizes.tolist(), np.exp(sweep.step_seconds.medians).tolist(), strict=True):
        compiled = claim_trials.compiled(sweep.frames, size, sweep.speeds.get(size))
        flops, moved = (size * compiled[name] for name in ("flops_per_example", "compiler_bytes_per_example"))
        least: dict[Limit, float] = {
            "arithmetic": flops / (top.matmul_flops_per_second or np.nan),
            "copying": moved / (top.copy_bytes_per_second or np.nan),
            "fixed_cost": fixed_seconds,
        }
        found.append(_use(flops, moved, seconds, least))
    return found


def _use(flops: float, moved: float, seconds: float, least: Mapping[Limit, float]) -> Use:
    """Of a step that takes `seconds`, where each limit alone would take the `least` seconds."""
    shares: dict[Limit, float] = {limit: alone / seconds for limit, alone in least.items()}
    share = shares["arithmetic"]
    limit, most = _binding(shares)
    return Use(finite(flops / seconds), finite(share), finite(flops / moved) if moved else None, limit, most)


def _binding(shares: Mapping[Limit, float]) -> tuple[Limit | None, float | None]:
    """The limit that explains most of a step, where it explains enough; both roofs must be known to tell."""
    if not np.isfinite([shares["arithmetic"], shares["copying"]]).all():
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


def roofline_cells(summary: Summary) -> list[CellSummary]:
    """The batch sizes that the roofline shows: those whose share of the peak and bytes moved are known."""
    return [cell for cell in summary.cells if cell.fraction_of_peak and cell.flops_per_byte]
