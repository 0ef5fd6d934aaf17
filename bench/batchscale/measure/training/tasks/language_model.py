"""Language modelling over bytes: an example is a window of T bytes, and its labels are the T bytes after them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from batchscale.errors import InputError
from batchscale.measure.data.datasets import Dataset, Examples


class Task:
    """Softmax cross-entropy of the next byte, in nats, averaged over the window."""

    metrics = ("loss", "bits_per_byte")

    def losses(self, outputs: Float[Array, "batch token byte"], batch: Examples) -> Float[Array, " batch"]:
        """Return the mean cross-entropy over the bytes of each window."""
        labels = batch.labels.astype(jnp.int32)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean(-1)

    def scores(self, outputs: Float[Array, "batch token byte"], batch: Examples) -> dict[str, Float[Array, " batch"]]:
        """Return no score: bits per byte are the loss in another unit."""
        return {}

    def check(self, dataset: Dataset) -> None:
        """Refuse data that are not windows of text."""
        inputs, labels = dataset.train
        if inputs.ndim != 2 or inputs.shape != labels.shape or inputs.dtype != np.uint8:
            found = f"inputs of shape {inputs.shape[1:]} and type {inputs.dtype}, labels of shape {labels.shape[1:]}"
            raise InputError(f"workload.task: language_model of {dataset.name}: {found}, expected windows of bytes")
