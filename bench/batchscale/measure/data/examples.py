"""What a dataset is once it is loaded: three splits of inputs and labels, and a few facts about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped

CLASSIFICATION = "classification"
LANGUAGE_MODEL = "language_model"
REGRESSION = "regression"
HASHED_AT_ONCE_BYTES = 1 << 24


class Examples(NamedTuple):
    """A split, in host memory or on a device; both arrays begin with the axis [example].

    Attributes:
        inputs: Standardised images are float32; the windows of a text are uint8.
        labels: Classification: int32 [example]. Text: uint8 [example, token], the input one byte later. Regression:
            float32 [example, width].
    """

    inputs: Shaped[Any, "example ..."]
    labels: Shaped[Any, "example ..."]

    def take(self, indices: Integer[np.ndarray, " chosen"]) -> Examples:
        """Return the examples at `indices`, in that order."""
        return Examples(self.inputs[indices], self.labels[indices])


@dataclass(frozen=True, eq=False, kw_only=True)
class Content:
    """Three splits without a common example, and what they are for.

    Attributes:
        task: Name of the task that the data is made for.
        classes: Width of a model's output: classes, values of a byte, or numbers that a regression predicts.
        train: To train on.
        validation: Held out of `train`, to steer by.
        test: Reported, never steered by.
        tokens_per_example: Length of a window of text; None where an example has no tokens.
        facts: Numbers worth knowing, such as the mean of an image's pixels before they were standardised.
    """

    task: str
    classes: int
    train: Examples
    validation: Examples
    test: Examples
    tokens_per_example: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def with_facts(self, facts: Mapping[str, float]) -> Content:
        """Return the content with further facts."""
        return replace(self, facts={**self.facts, **facts})

    def digest(self) -> str:
        """Return a hash of every array: its name, type, shape and values."""
        digest = hashlib.sha256()
        for split in ("train", "validation", "test"):
            for part, array in getattr(self, split)._asdict().items():
                digest.update(f"{split}_{part} {array.dtype.str} {array.shape}\n".encode())
                _hash_values(digest, array)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset(Content):
    """A dataset ready to train on, in host memory.

    Attributes:
        name: Name of its recipe, or the path by which the user named it.
        source: Where its files came from.
        sha256: Hash of what was loaded: of the files, of the text, or of the arrays.
    """

    name: str
    source: str
    sha256: str

    @classmethod
    def of(cls, content: Content, *, name: str, source: str, sha256: str) -> Dataset:
        """Name the content."""
        parts = {one.name: getattr(content, one.name) for one in fields(Content)}
        return cls(**parts, name=name, source=source, sha256=sha256)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input of one example: [H, W, C] for images, [T] for text."""
        return self.train.inputs.shape[1:]


def _hash_values(digest: hashlib._Hash, array: np.ndarray) -> None:
    """Hash an array in pieces, so that one that is mapped from disk is never whole in memory."""
    rows = max(1, HASHED_AT_ONCE_BYTES * len(array) // max(1, array.nbytes))
    for first in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[first : first + rows]).data)
