"""NEW MODULE."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32


class Examples(NamedTuple):
    """A split on the device."""

    inputs: Float[Array, "example height width channel"]
    labels: Int32[Array, " example"]


def on_device(inputs: np.ndarray, labels: np.ndarray) -> Examples:
    """Put a split on the default device."""
    return Examples(jnp.asarray(inputs), jnp.asarray(labels, jnp.int32))
