"""The order of examples: which ones are held out, and in which order the rest are trained.

Both orders are pure functions of a few numbers. They use raw words of the Philox-4x64 generator (Salmon et al., SC
2011) and stable sorts, because a library may change how its own shuffle consumes random numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Int32, Int64, Integer

HELD_OUT_KEY = 0x5EED


@lru_cache(maxsize=64)
def order(seed: int, epoch: int, examples: int) -> Int32[np.ndarray, " examples"]:
    """Return the permutation of one epoch, read-only."""
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(examples)
    shuffled = np.argsort(words, kind="stable").astype(np.int32)
    shuffled.flags.writeable = False
    return shuffled


def indices(seed: int, start: int, count: int, examples: int) -> Int32[np.ndarray, " count"]:
    """Return which examples stand at positions `start` to `start + count` of a seed's endless stream.

    The stream is all shuffled epochs laid end to end, each of `examples` examples.
    """
    first, last = start // examples, (start + count - 1) // examples
    epochs = [order(seed, epoch, examples) for epoch in range(first, last + 1)]
    joined = epochs[0] if len(epochs) == 1 else np.concatenate(epochs)
    offset = start - first * examples
    return joined[offset : offset + count]


def held_out_order(labels: Integer[np.ndarray, " examples"], key: int = HELD_OUT_KEY) -> Int64[np.ndarray, " examples"]:
    """Return a fixed random order of the examples. Its first n hold every class in proportion, for every n.

    An example of random rank r, from 0, in its class of n examples is sorted by (r + 1/2) / n.
    """
    shuffled = np.argsort(np.random.Philox(key=key).random_raw(len(labels)), kind="stable")
    sizes = np.bincount(labels)
    by_class = np.argsort(labels[shuffled], kind="stable")
    first_of_class = np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = np.empty(len(labels))
    position[by_class] = (np.arange(len(labels)) - first_of_class + 0.5) / np.repeat(sizes, sizes)
    return shuffled[np.argsort(position, kind="stable")]
