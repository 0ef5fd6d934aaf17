"""The experiment this suite set out to reproduce: LeNet on MNIST at batch sizes 5000 down to 1 (Cheng Yin, 2015).

Its own table (zhuanlan.zhihu.com/p/32673260) beside ours, in units that do not depend on the machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.metrics.sweep import sweep
from batchscale.analysis.summary_types import CellSummary, ReferenceRow

NAME = "lenet_mnist_reference"
TARGET = 0.99


class Published(NamedTuple):
    """A row as published; None where it did not converge or gives no number."""

    batch_size: int
    time_of_200_epochs: float | None
    epochs_to_target: float | None
    time_to_target: float | None
    best_error: float | None
    best_test_error: float | None


TABLE = (
    Published(5000, 1.0, None, None, 0.015, 0.014),
    Published(2000, 1.068, None, None, 0.011, 0.010),
    Published(1000, 1.16, 135, 2.12, 0.010, 0.010),
    Published(500, 1.38, 78, 1.48, 0.010, 0.010),
    Published(256, 1.75, 41, 1.0, 0.010, 0.010),
    Published(100, 3.016, 45, 1.874, 0.009, 0.008),
    Published(50, 5.027, 24, 1.7, 0.0098, 0.0083),
    Published(20, 8.513, 9, 1.082, 0.0084, 0.0088),
    Published(10, 13.773, 9, 1.729, 0.010, 0.008),
    Published(5, 24.055, None, None, 0.032, 0.0262),
    Published(2, None, None, None, None, None),
    Published(1, None, None, None, None, None),
)


def applies(frames: Frames) -> bool:
    """Whether the experiment trains the same kind of model on the same data."""
    workload = frames.experiment.workload
    return frames.experiment.name == NAME or (workload.dataset, workload.model) == ("mnist", "lenet")


def reference_table(frames: Frames, cells: list[CellSummary]) -> list[ReferenceRow]:
    """Row for row; times relative to the largest, or the best, batch size that both tables hold."""
    if not applies(frames):
        return []
    measured = {cell.batch_size: cell for cell in cells}
    common = [row.batch_size for row in TABLE if row.batch_size in measured]
    if not common:
        return []
    epoch_seconds = {size: _epoch_seconds(measured[size]) for size in common}
    of = sweep(frames, TARGET)
    at = {size: int(np.searchsorted(of.sizes, size)) for size in common}
    seconds = {size: float(np.exp(of.time.medians[at[size]])) for size in common}
    epochs = {size: float(of.median_examples[at[size]]) / of.frames.epoch for size in common}
    slowest_base = next((epoch_seconds[size] for size in common if epoch_seconds[size]), None)
    best = min((value for value in seconds.values() if np.isfinite(value)), default=np.nan)
    return [
        _row(
            row,
            measured.get(row.batch_size),
            _ratio(epoch_seconds.get(row.batch_size), slowest_base),
            epochs.get(row.batch_size),
            _ratio(seconds.get(row.batch_size), best),
        )
        for row in TABLE
    ]


def _row(
    row: Published,
    cell: CellSummary | None,
    epoch_seconds_ratio: float | None,
    epochs: float | None,
    time_ratio: float | None,
) -> ReferenceRow:
    best = cell.best_accuracy.median if cell else None
    test = cell.test_accuracy if cell else None
    return ReferenceRow(
        batch_size=row.batch_size,
        reference_epoch_seconds_ratio=row.time_of_200_epochs,
        epoch_seconds_ratio=epoch_seconds_ratio,
        reference_epochs_to_target=row.epochs_to_target,
        epochs_to_target=epochs if epochs is not None and np.isfinite(epochs) else None,
        reference_time_to_target_ratio=row.time_to_target,
        time_to_target_ratio=time_ratio,
        reference_best_error=row.best_error,
        best_error=None if best is None else 1 - best,
        reference_test_error=row.best_test_error,
        test_error=None if test is None else 1 - test,
    )


def _epoch_seconds(cell: CellSummary) -> float | None:
    """Seconds per example, which is proportional."""
    return 1 / cell.examples_per_second if cell.examples_per_second else None


def _ratio(value: float | None, base: float | None) -> float | None:
    if value is None or base is None or not np.isfinite(value) or not np.isfinite(base):
        return None
    return value / base
