"""The MNIST family: four files in the IDX format (a magic number, big-endian sizes, then one byte per value)."""

from __future__ import annotations

import math
import struct
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from msgspec import Meta

from batchscale.errors import InputError
from batchscale.measure.data.examples import Content, Examples
from batchscale.measure.data.files.packings import DataFile, Files
from batchscale.measure.data.images import hold_out, image_classes

UNSIGNED_BYTE = 0x08
MOST_DIMENSIONS = 4
CLASSES = 10
VALIDATION_EXAMPLES = 5_000


def idx_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[DataFile, ...]:
    """Return the four files of the MNIST family, given the SHA-256 of their uncompressed content."""
    return (
        DataFile("train-images-idx3-ubyte", train_images, 47_040_016),
        DataFile("train-labels-idx1-ubyte", train_labels, 60_008),
        DataFile("t10k-images-idx3-ubyte", test_images, 7_840_016),
        DataFile("t10k-labels-idx1-ubyte", test_labels, 10_008),
    )


def split_idx(
    files: Files, *, validation_examples: Annotated[int, Meta(ge=1, le=50_000)] = VALIDATION_EXAMPLES
) -> Content:
    """Split four IDX files in the order of `idx_files`; the validation split is held out of the published train set."""
    train_images, train_labels, test_images, test_labels = (parse(data, name) for name, data in files.items())
    validation, train = hold_out(Examples(train_images, train_labels), validation_examples)
    return image_classes(train, validation, Examples(test_images, test_labels), CLASSES)


def parse(data: bytes, name: str) -> UInt8[np.ndarray, " *sizes"]:
    """Return the array of an IDX file of unsigned bytes, as a read-only view of `data`; nothing is allocated for it.

    Raises:
        InputError: when `data` is not exactly such a file; `name` is the file named in the message.
    """
    if len(data) < 4 or data[:2] != b"\0\0":
        raise InputError(f"{name}: magic number: does not begin as an IDX file, expected two zero bytes")
    kind, dimensions = data[2], data[3]
    if kind != UNSIGNED_BYTE:
        raise InputError(f"{name}: value type: found {kind:#04x}, expected 0x08 (unsigned bytes)")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise InputError(f"{name}: dimensions: found {dimensions}, expected 1 to {MOST_DIMENSIONS}")
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise InputError(f"{name}: header: cut off after {len(data)} bytes, expected {start}")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if math.prod(shape) != len(data) - start:
        raise InputError(f"{name}: length: found {len(data) - start} bytes, expected {math.prod(shape)} for {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
