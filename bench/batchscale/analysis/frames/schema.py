"""The columns of every frame with their types, and how to fill, select and reduce frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

CELL = {
    "batch_size": "int64",
    "loop": "object",
    "input": "object",
    "precision": "object",
    "devices": "int64",
    "accumulation": "int64",
}
"""The columns that identify a timed cell, as `CellKey` does."""

TRIAL = {
    "trial": "int64",
    "phase": "object",
    "batch_size": "int64",
    "learning_rate": "float64",
    "seed": "int64",
}
"""The columns that identify a training run, apart from its options; `trial` numbers the runs of a folder."""

COUNT = "count"
"""The type of whole numbers that may be unknown: int64 where all are known, else float64 with NaN."""

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "rounds": {
        **CELL,
        "round": "int64",
        "block": "int64",
        "steps": COUNT,
        "epochs": "float64",
        "seconds": "float64",
        "seconds_per_step": "float64",
        "seconds_per_epoch": "float64",
        "examples_per_second": "float64",
        "joules": "float64",
        "clock_mhz": "float64",
        "celsius": "float64",
        "watts": "float64",
        "power_cap_watts": "float64",
        "other_processes": "float64",
        "lowering": "object",
    },
    "compilations": {
        **CELL,
        "status": "object",
        "message": "object",
        "lowering": "object",
        "compile_seconds": "float64",
        "predicted_bytes": "float64",
        "peak_bytes": "float64",
        "isolated": "bool",
        "flops_per_example": "float64",
        "compiler_flops_per_example": "float64",
        "moved_bytes_per_example": "float64",
    },
    "trials": {
        **TRIAL,
        "options": "object",
        "status": "object",
        "reason": "object",
        "steps": COUNT,
        "examples_to_target": "float64",
        "steps_to_target": "float64",
        "epochs_to_target": "float64",
        "seconds_to_target": "float64",
        "budgets_to_target": "float64",
        "previous_examples": "float64",
        "previous_epochs": "float64",
        "previous_seconds": "float64",
        "previous_budgets": "float64",
        "whole_budget": "bool",
        "best_score": "float64",
        "best_averaged_score": "float64",
        "test_score": "float64",
    },
    "curves": {
        **TRIAL,
        "examples": "float64",
        "epochs": "float64",
        "steps": "float64",
        "seconds": "float64",
        "budgets": "float64",
        "score": "float64",
        "variance": "float64",
        "loss": "float64",
        "test_score": "float64",
        "averaged_score": "float64",
    },
    "noise": {
        **TRIAL,
        "examples": "int64",
        "epochs": "float64",
        "gradient_squared": "float64",
        "noise_trace": "float64",
        "small_batch_size": "int64",
        "big_batch_size": "int64",
    },
    "gradient_norms": {**TRIAL, "examples": "int64", "squared_norm": "float64"},
    "limits": {
        "precision": "object",
        "memory_bytes": "float64",
        "batch_size": "float64",
        "bound": "object",
        "confirmed": "bool",
        "predicted_bytes": "float64",
        "message": "object",
    },
    "calibrations": {"quantity": "object", "precision": "object", "value": "float64"},
    "stages": {
        "stage": "object",
        "finished": "bool",
        "seconds": "float64",
        "compilations": "int64",
        "trained_examples": "int64",
    },
    "verifications": {
        "batch_size": "int64",
        "learning_rate": "float64",
        "options": "object",
        "seed": "int64",
        "status": "object",
        "message": "object",
        "steps": "int64",
        "seconds": "float64",
        "predicted_steps": "float64",
        "predicted_seconds": "float64",
    },
}

Series: TypeAlias = Mapping[str, np.ndarray]


def values(frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Return a column of numbers as floats (rows,), nulls as NaN."""
    return np.asarray(frame[column], dtype=np.float64)


def only(frame: pd.DataFrame, kept: ArrayLike) -> pd.DataFrame:
    """Return the rows for which `kept` (rows,) is True."""
    return frame.loc[np.asarray(kept, dtype=bool)]


def one_before(frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Return, for each row, the value in the previous row of the same trial, or 0 in the trial's first row.

    The rows of a trial must be adjacent.
    """
    first = np.diff(np.asarray(frame["trial"]), prepend=-1) != 0
    return np.where(first, 0.0, np.roll(values(frame, column), 1))


def numbers(values: Iterable[float | None]) -> np.ndarray:
    """Return floats, with NaN for None (null in the files: not finite)."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def tidy(name: str, records: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Build a frame of one record per row, with the columns and types of `COLUMNS[name]`; missing values are null."""
    kept = list(records)
    columns = {}
    for column, dtype in COLUMNS[name].items():
        found = [record.get(column) for record in kept]
        whole = "float64" if None in found else "int64"
        columns[column] = pd.Series(found, dtype=whole if dtype == COUNT else dtype)
    return pd.DataFrame(columns)


def stacked(name: str, trials: Sequence[Mapping[str, object]], series: Sequence[Series]) -> pd.DataFrame:
    """Build a frame of one row per element of the `series` of each trial; the columns of the trial are repeated.

    A column that a series lacks is NaN.
    """
    lengths = [len(next(iter(one.values()))) for one in series]
    columns = {}
    for column, dtype in COLUMNS[name].items():
        if column in TRIAL:
            repeated = np.repeat(np.array([trial[column] for trial in trials], dtype=dtype), lengths)
            columns[column] = pd.Series(repeated, dtype=dtype)
        else:
            parts = [one.get(column, np.full(length, np.nan)) for one, length in zip(series, lengths, strict=True)]
            columns[column] = np.concatenate(parts).astype(dtype, copy=False) if parts else np.array([], dtype)
    return pd.DataFrame(columns)


def batch_sizes(rows: pd.DataFrame) -> list[int]:
    """Return the batch sizes of a frame, sorted."""
    return np.unique(values(rows, "batch_size")).astype(int).tolist()


def by_batch_size(
    rows: pd.DataFrame, column: str, reduce: Callable[[NDArray[np.float64]], float] = np.median
) -> tuple[list[int], NDArray[np.float64]]:
    """Reduce the known values of a column at each batch size; batch sizes without any are left out."""
    known_rows = only(rows, ~np.isnan(values(rows, column)))
    sizes, at_each, found = batch_sizes(known_rows), values(known_rows, "batch_size"), values(known_rows, column)
    return sizes, np.array([reduce(found[at_each == size]) for size in sizes], dtype=np.float64)


def aggregated(rows: pd.DataFrame, keys: Sequence[str], **reduced: tuple[str, str]) -> pd.DataFrame:
    """Return one row for each combination of `keys`; `name=(column, reduction)` adds a column."""
    return cast(pd.DataFrame, rows.groupby(list(keys), as_index=False).agg(**reduced))  # type: ignore[call-overload]
