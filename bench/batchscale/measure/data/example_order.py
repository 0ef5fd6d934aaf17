"""The order of examples as a pure function of (seed, position): shuffled epochs laid end to end."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Int32


@lru_cache(maxsize=64)
def order(seed: int, epoch: int, examples: int) -> Int32[np.ndarray, " examples"]:
    """The permutation of one epoch.

    Raw Philox words and a stable sort, because a library may change how its own shuffle consumes them.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(examples)
    shuffled = np.argsort(words, kind="stable").astype(np.int32)
    shuffled.flags.writeable = False
    return shuffled


def indices(seed: int, start: int, count: int, examples: int) -> Int32[np.ndarray, " count"]:
    """Which examples stand at positions `start` to `start + count` of the endless stream."""
    first, last = start // examples, (start + count - 1) // examples
    epochs = [order(seed, epoch, examples) for epoch in range(first, last + 1)]
    joined = epochs[0] if len(epochs) == 1 else np.concatenate(epochs)
    offset = start - first * examples
    return joined[offset : offset + count]
