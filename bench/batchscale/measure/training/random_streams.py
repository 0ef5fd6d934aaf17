"""The random numbers that a model draws while it trains, such as the masks of Dropout.

They are a function of the run's seed and of the number of an example in the run's order of training examples (step x
batch size + position in the batch). Neither microbatches, nor lanes, nor devices, nor a resumed run change them.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int32, Key, PyTree, UInt32

from batchscale.errors import InputError
from batchscale.printable import printable

NAMES = ("params", "dropout")
"""Streams that a model is given: for its initial parameters, and for what it draws while it trains."""
EXPECTED = f"expected no stream but {' and '.join(map(repr, NAMES))}"
EXAMPLES_KEY = 0xD0
"""Seed of the key from which those of examples follow; initial parameters follow from `jax.random.key(seed)`."""

Keys = Key[Array, " example"] | None
"""One key for each example of a batch; None for a model that draws nothing."""
Numbers = UInt32[Array | np.ndarray, "*example"] | None
"""The numbers of examples in the order of training; None for a model that draws nothing."""


def given(seed: UInt32[Array, ""] | int) -> nnx.Rngs:
    """Return the streams that a model is built with: its parameters are a function of the seed."""
    return nnx.Rngs(params=jax.random.key(seed), dropout=jax.random.key(EXAMPLES_KEY))


def streams_of(name: str, model: nnx.Module) -> PyTree:
    """Return shapes and types of the streams that a model keeps, a tree without leaves for a model that keeps none.

    Raises:
        InputError: When it keeps a stream of another name.
    """
    state = nnx.state(model, nnx.RngState)
    for _, variable in nnx.to_flat_state(state):
        if variable.tag not in NAMES:
            raise InputError(f"workload.model: {name} has the random stream {printable(variable.tag)}, {EXPECTED}")
    return state


def example_keys(
    seed: Int32[Array, ""] | int, numbers: UInt32[Array | np.ndarray, " example"]
) -> Key[Array, " example"]:
    """Return the keys of examples by the run's seed and their numbers in its order."""
    of_run = jax.random.fold_in(jax.random.key(EXAMPLES_KEY), seed)
    return jax.vmap(partial(jax.random.fold_in, of_run))(jnp.asarray(numbers))


def at_example(streams: PyTree, key: Key[Array, ""]) -> PyTree:
    """Return the state of a model's streams before they draw anything for an example: a key of its own for each."""
    leaves, structure = jax.tree.flatten(streams)
    count, filled = 0, []
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            own, count = jax.random.fold_in(key, count), count + 1
            # Layers that are stacked keep an axis of keys.
            filled.append(jax.random.split(own, leaf.shape) if leaf.shape else own)
        else:
            filled.append(jnp.zeros(leaf.shape, leaf.dtype))
    return jax.tree.unflatten(structure, filled)
