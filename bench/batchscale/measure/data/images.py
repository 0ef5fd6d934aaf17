"""From images as published, bytes, to standardised inputs; and splits that are held out of a published one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from batchscale.errors import InputError
from batchscale.measure.data.example_order import held_out_order
from batchscale.measure.data.examples import CLASSIFICATION, Content, Examples


def hold_out(examples: Examples, *sizes: int) -> list[Examples]:
    """Return disjoint sets of `sizes` examples, then the rest; each keeps the published order of its examples."""
    sets = np.split(held_out_order(examples.labels), np.cumsum(sizes))
    return [examples.take(np.sort(indices)) for indices in sets]


def image_classes(train: Examples, validation: Examples, test: Examples, classes: int) -> Content:
    """Return images of bytes with class numbers, scaled by the moments of the train split.

    Args:
        train: images [N, H, W], or [N, H, W, C] whose channels have moments of their own; so are the other splits.
        validation: held out of the published train split.
        test: the published test split.
        classes: labels are 0 to `classes` - 1.
    """
    scale = Scale.of(train.inputs)

    def scaled(split: Examples) -> Examples:
        return Examples(scale.inputs(split.inputs), split.labels.astype(np.int32))

    return Content(
        task=CLASSIFICATION,
        classes=classes,
        train=scaled(train),
        validation=scaled(validation),
        test=scaled(test),
        facts=scale.facts,
    )


class Scale:
    """The moments of a train split, by which the inputs of every split are standardised.

    Attributes:
        facts: mean and standard deviation in the units of the source, 0 to 255; numbered where channels differ.
    """

    def __init__(self, moments: list[tuple[float, float]]) -> None:
        self._levels = [standardised_bytes(mean, deviation) for mean, deviation in moments]
        marks = [f"_of_channel_{number}" for number in range(len(moments))] if len(moments) > 1 else [""]
        self.facts = {
            f"{name}{mark}": value
            for mark, one in zip(marks, moments, strict=True)
            for name, value in zip(("mean", "standard_deviation"), one, strict=True)
        }

    @classmethod
    def of(cls, train: UInt8[np.ndarray, " example *sizes"]) -> Scale:
        """Return the scale of a train split: one for each channel of [N, H, W, C], else one for all values."""
        channels = np.moveaxis(train, 3, 0) if train.ndim == 4 else [train]
        return cls([moments(channel) for channel in channels])

    def inputs(
        self, values: UInt8[np.ndarray, " example *sizes"]
    ) -> Float32[np.ndarray, " example *sizes_and_channel"]:
        """Return standardised values; images without a channel, [N, H, W], get one."""
        if values.ndim != 4:
            scaled = self._levels[0][values]
            return scaled[..., np.newaxis] if values.ndim == 3 else scaled
        scaled = np.empty(values.shape, np.float32)
        for channel, levels in enumerate(self._levels):
            scaled[..., channel] = levels[values[..., channel]]
        return scaled


def moments(values: UInt8[np.ndarray, " *sizes"]) -> tuple[float, float]:
    """Return mean and population standard deviation of bytes, from exact integer sums: equal on every machine.

    Raises:
        InputError: when all values are the same, from which nothing can be learnt.
    """
    counts = np.bincount(values.ravel(), minlength=256)
    levels = np.arange(256)
    total, first, second = (int(each) for each in (counts.sum(), counts @ levels, counts @ levels**2))
    spread = total * second - first**2
    if spread == 0:
        raise InputError("every value of the train split is the same, expected at least two")
    return first / total, spread**0.5 / total


def standardised_bytes(mean: float, standard_deviation: float) -> Float32[np.ndarray, " 256"]:
    """Return (value - mean) / standard deviation for every byte."""
    return ((np.arange(256) - mean) / standard_deviation).astype(np.float32)
