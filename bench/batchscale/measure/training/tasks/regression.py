"""Regression: the model predicts the numbers of a label."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Float

from batchscale.errors import InputError
from batchscale.measure.data.datasets import Dataset, Examples


class Task:
    """Squared error, averaged over the numbers of a label."""

    metrics = ("loss",)

    def losses(self, outputs: Float[Array, "batch number"], batch: Examples) -> Float[Array, " batch"]:
        """Return the mean squared error of each example."""
        return ((outputs - batch.labels) ** 2).mean(-1)

    def scores(self, outputs: Float[Array, "batch number"], batch: Examples) -> dict[str, Float[Array, " batch"]]:
        """Return no further score."""
        return {}

    def check(self, dataset: Dataset) -> None:
        """Refuse labels that are not a list of real numbers for each example."""
        labels = dataset.train.labels
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.floating):
            found = f"labels of shape {labels.shape[1:]} and type {labels.dtype}"
            raise InputError(
                f"workload.task: regression of {dataset.name}: {found}, expected real numbers [example, width]"
            )
