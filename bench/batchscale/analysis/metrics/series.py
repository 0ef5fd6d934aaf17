"""From frames and cells to what is plotted: batch sizes and a value, or an interval, at each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pandas as pd

from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import CellSummary


def batch_sizes(rows: pd.DataFrame) -> list[int]:
    """The batch sizes of a frame, sorted."""
    return np.unique(values(rows, "batch_size")).astype(int).tolist()


def by_batch_size(
    rows: pd.DataFrame, column: str, reduce: Callable[[Array], float] = np.median
) -> tuple[list[int], Array]:
    """The known values of a column reduced at each batch size; batch sizes without any are left out."""
    known_rows = only(rows, ~np.isnan(values(rows, column)))
    sizes, at_each, found = batch_sizes(known_rows), values(known_rows, "batch_size"), values(known_rows, column)
    return sizes, np.array([reduce(found[at_each == size]) for size in sizes], dtype=np.float64)


def aggregated(rows: pd.DataFrame, keys: Sequence[str], **reduced: tuple[str, str]) -> pd.DataFrame:
    """One row for each combination of `keys`; `name=(column, reduction)` adds a column."""
    return cast(pd.DataFrame, rows.groupby(list(keys), as_index=False).agg(**reduced))  # type: ignore[call-overload]


def known(cells: Sequence[CellSummary], quantity: str) -> list[CellSummary]:
    """The cells whose `quantity` has a finite median, smallest batch size first."""
    found = [cell for cell in cells if (estimate := getattr(cell, quantity)) and estimate.median is not None]
    return sorted(found, key=lambda cell: cell.batch_size)


def medians(cells: Sequence[CellSummary], quantity: str) -> Array:
    """Medians of known cells, shape (n,)."""
    return np.array([getattr(cell, quantity).median for cell in cells], dtype=np.float64)


def open_ends(cells: Sequence[CellSummary], quantity: str) -> Array:
    """Low and high ends of the intervals, shape (2, n); an end that is null is infinite."""
    pairs = [[np.inf if end is None else end for end in getattr(cell, quantity).interval] for cell in cells]
    return np.array(pairs, dtype=np.float64).T
