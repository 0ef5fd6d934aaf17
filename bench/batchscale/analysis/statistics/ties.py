"""Which cells cannot be told from the best, and which lie above another beyond what noise explains."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchscale.analysis.statistics.intervals import LEVEL, Array, Locations


def tied_with_least(locations: Locations) -> NDArray[np.bool_]:
    """Which cells (cells,) cannot be told from the least: they hold the truly least one with 95% confidence.

    Multiple comparisons with the best (Hsu, 1981): a cell is left out when it lies above some other by more than the
    95% quantile of the largest of its errors relative to all others, each in units of its own spread.
    """
    centres, errors = locations.centres, locations.errors
    usable = np.flatnonzero(np.isfinite(centres) & _possible(locations))
    tied = np.zeros(len(centres), dtype=bool)
    for cell in usable:
        others = usable[usable != cell]
        excess = errors[:, [cell]] - errors[:, others]
        tied[cell] = not _above_some(centres[cell] - centres[others], excess)
    return tied


def _above_some(differences: Array, excess: Array) -> bool:
    """Whether a cell lies above one of others: `differences` (others,) beyond what `excess` (draws, others) allows."""
    if not len(differences):
        return False
    if np.isnan(excess).any():
        return False
    scale = np.maximum(np.sqrt(np.mean(excess**2, axis=0)), 1e-12)
    critical = np.quantile(np.max(excess / scale, axis=1), LEVEL)
    return bool(np.max(differences / scale) > critical)


def _possible(locations: Locations) -> NDArray[np.bool_]:
    """Cells whose true median is finite with more than 5% probability."""
    return np.mean(np.isfinite(locations.draws) | np.isnan(locations.draws), axis=0) > 1 - LEVEL


def above_a_later_one(locations: Locations, least: float) -> NDArray[np.bool_]:
    """Cells (cells,) that lie above some cell after them by more than `least` and more than noise explains."""
    centres, errors = locations.centres, locations.errors
    usable = np.flatnonzero(np.isfinite(centres) & np.isfinite(locations.medians))
    above = np.zeros(len(centres), dtype=bool)
    for cell in usable:
        later = usable[usable > cell]
        differences = centres[cell] - centres[later]
        above[cell] = np.any(differences > least) and _above_some(differences, errors[:, [cell]] - errors[:, later])
    return above
