"""Language modelling over bytes: an example is a window of T bytes, and its labels are the T bytes after them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Shaped

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
        """Refuse data that are not windows of tokens: whole numbers from 0 below the width of the model's output."""
        task, train = f"workload.task: language_model of {dataset.name}", dataset.train
        if train.inputs.ndim != 2 or train.inputs.shape != train.labels.shape or not all(map(_is_whole, train)):
            found = f"inputs {_shown(train.inputs)}, labels {_shown(train.labels)}"
            raise InputError(f"{task}: {found}, expected whole numbers [example, token] for both")
        for part in (*dataset.train, *dataset.validation, *dataset.test):
            least, most = int(part.min()), int(part.max())
            if least < 0 or most >= dataset.classes:
                found = least if least < 0 else most
                raise InputError(f"{task}: token {found}, expected 0 to {dataset.classes - 1}")


def _is_whole(values: Shaped[np.ndarray, " ..."]) -> bool:
    return np.issubdtype(values.dtype, np.integer)


def _shown(values: Shaped[np.ndarray, " ..."]) -> str:
    return f"of shape {values.shape[1:]} and type {values.dtype}"
