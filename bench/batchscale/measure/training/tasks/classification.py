"""Classification: the model gives one logit a class, and the label is the number of the class."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from batchscale.errors import InputError
from batchscale.measure.data.datasets import Dataset, Examples


class Task:
    """Softmax cross-entropy of the class, in nats, and the share of examples whose class is predicted."""

    metrics = ("accuracy", "loss")

    def losses(self, outputs: Float[Array, "batch class"], batch: Examples) -> Float[Array, " batch"]:
        """Return the softmax cross-entropy of each example."""
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch.labels)

    def scores(self, outputs: Float[Array, "batch class"], batch: Examples) -> dict[str, Float[Array, " batch"]]:
        """Return 1 for each example whose class has the largest logit, else 0."""
        # argmax of NaNs is class 0, which would count as correct for every example of that class.
        finite = jnp.isfinite(outputs).all(axis=-1)
        return {"accuracy": ((outputs.argmax(-1) == batch.labels) & finite).astype(jnp.float32)}

    def check(self, dataset: Dataset) -> None:
        """Refuse labels that are not one whole number an example."""
        labels = dataset.train.labels
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            found = f"labels of shape {labels.shape[1:]} and type {labels.dtype}"
            raise InputError(
                f"workload.task: classification of {dataset.name}: {found}, expected one integer an example"
            )
