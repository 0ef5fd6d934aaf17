"""Examples made up for timing alone: their shapes and types are those of a dataset, their values are random."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import numpy as np
from jaxtyping import Shaped
from msgspec import Meta

from batchscale.measure.data.examples import Dataset, Examples

Size = Annotated[int, Meta(ge=1, le=1 << 40)]


class ArraySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One array of a split.

    Attributes:
        shape: Of one example.
        dtype: Type of the values.
        levels: Whole numbers are below it; 0 for real numbers.
    """

    shape: Annotated[list[Size], Meta(max_length=8)]
    dtype: Literal["float32", "uint8", "int32"]
    levels: Annotated[int, Meta(ge=0, le=1 << 31)]

    @property
    def example_bytes(self) -> int:
        """Bytes of one example."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def draw(self, random: np.random.Generator, count: int) -> Shaped[np.ndarray, "example ..."]:
        """Return random values for `count` examples: uniform, because denormal numbers might be slow."""
        shape = (count, *self.shape)
        if self.dtype == "float32":
            return random.random(shape, np.float32)
        return random.integers(0, self.levels, shape, np.dtype(self.dtype).type)


class ExampleSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the examples of a dataset look like; small, and the same after a trip through JSON.

    Attributes:
        task: As in `Content`; so are `classes` and `tokens_per_example`.
        classes: Width of a model's output.
        tokens_per_example: Length of a window of text.
        inputs: Shape and type of the inputs.
        labels: Shape and type of the labels.
    """

    task: str
    classes: Size
    tokens_per_example: Size | None = None
    inputs: ArraySpec
    labels: ArraySpec


def example_spec(dataset: Dataset) -> ExampleSpec:
    """Describe the examples of a dataset."""
    inputs, labels = dataset.train
    integer_inputs, integer_labels = (np.issubdtype(part.dtype, np.integer) for part in dataset.train)
    return ExampleSpec(
        task=dataset.task,
        classes=dataset.classes,
        tokens_per_example=dataset.tokens_per_example,
        inputs=_array_spec(inputs, dataset.classes if integer_inputs else 0),
        labels=_array_spec(labels, dataset.classes if integer_labels else 0),
    )


def made_up(spec: ExampleSpec, count: int, seed: int) -> Examples:
    """Draw `count` examples."""
    random = np.random.default_rng(seed)
    return Examples(spec.inputs.draw(random, count), spec.labels.draw(random, count))


def made_up_dataset(spec: ExampleSpec, name: str, train_examples: int) -> Dataset:
    """Return a dataset that can be timed: a made-up train split, and nothing to validate on."""
    train = made_up(spec, train_examples, seed=0)
    none = Examples(train.inputs[:0], train.labels[:0])
    return Dataset(
        name=name,
        source="made up",
        sha256="",
        task=spec.task,
        classes=spec.classes,
        train=train,
        validation=none,
        test=none,
        tokens_per_example=spec.tokens_per_example,
    )


def _array_spec(array: Shaped[np.ndarray, "example ..."], levels: int) -> ArraySpec:
    return ArraySpec(shape=list(array.shape[1:]), dtype=array.dtype.name, levels=levels)  # pyright: ignore[reportArgumentType]
