"""From published examples to train, validation and test: which example goes where, and how bytes are scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from batchscale.errors import InputError

SPLIT_KEY = 0x5EED


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images as their source gives them: bytes [N, H, W] and class numbers [N]."""

    images: UInt8[np.ndarray, "examples height width"]
    labels: UInt8[np.ndarray, " examples"]

    def take(self, indices: Int64[np.ndarray, " chosen"]) -> Examples:
        """The examples at `indices`, in that order."""
        return Examples(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Splits:
    """Three splits without a common example."""

    train: Examples
    validation: Examples
    test: Examples


def hold_out(examples: Examples, *sizes: int) -> list[Examples]:
    """Disjoint parts of `sizes` examples, then the rest; each part keeps the published order of its examples."""
    parts = np.split(held_out_order(examples.labels), np.cumsum(sizes))
    return [examples.take(np.sort(part)) for part in parts]


def held_out_order(labels: UInt8[np.ndarray, " examples"], key: int = SPLIT_KEY) -> Int64[np.ndarray, " examples"]:
    """A fixed random order in which every beginning holds each class in proportion.

    Random numbers are the raw Philox-4x64 stream of `key` (Salmon et al., SC 2011) and every sort is stable, so
    the order depends on no version of NumPy. An example of random rank r, from 0, in its class of n examples
    stands at (r + 1/2) / n.
    """
    shuffled = np.argsort(np.random.Philox(key=key).random_raw(len(labels)), kind="stable")
    sizes = np.bincount(labels)
    by_class = np.argsort(labels[shuffled], kind="stable")
    first_of_class = np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = np.empty(len(labels))
    position[by_class] = (np.arange(len(labels)) - first_of_class + 0.5) / np.repeat(sizes, sizes)
    return shuffled[np.argsort(position, kind="stable")]


def moments(values: UInt8[np.ndarray, " *sizes"]) -> tuple[float, float]:
    """Mean and population standard deviation of bytes, from exact integer sums: equal on every machine.

    Raises:
        InputError: when the values are all the same, from which nothing can be learnt.
    """
    counts = np.bincount(values.ravel(), minlength=256)
    levels = np.arange(256)
    total, first, second = (int(each) for each in (counts.sum(), counts @ levels, counts @ levels**2))
    spread = total * second - first**2
    if spread == 0:
        raise InputError("images: every value of the train split is the same")
    return first / total, spread**0.5 / total


def standardised_bytes(mean: float, standard_deviation: float) -> Float32[np.ndarray, " 256"]:
    """What each byte becomes: (value - mean) / standard deviation."""
    return ((np.arange(256) - mean) / standard_deviation).astype(np.float32)
