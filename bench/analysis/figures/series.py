"""Reading the estimates of many cells at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.analysis.summary import CellSummary


def known(cells: Sequence[CellSummary], quantity: str) -> list[CellSummary]:
    """The cells whose `quantity` has a finite median, smallest batch size first."""
    found = [cell for cell in cells if (estimate := getattr(cell, quantity)) and estimate.median is not None]
    return sorted(found, key=lambda cell: cell.batch_size)


def medians(cells: Sequence[CellSummary], quantity: str) -> np.ndarray:
    """Medians of known cells, shape (n,)."""
    return np.array([getattr(cell, quantity).median for cell in cells], dtype=np.float64)


def open_ends(cells: Sequence[CellSummary], quantity: str) -> np.ndarray:
    """Low and high ends of the intervals, shape (2, n); an end that is null is infinite."""
    pairs = [[np.inf if end is None else end for end in getattr(cell, quantity).interval] for cell in cells]
    return np.array(pairs, dtype=np.float64).T
