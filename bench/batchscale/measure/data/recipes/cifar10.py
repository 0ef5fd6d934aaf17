"""CIFAR-10: 60,000 colour pictures of 32 x 32 pixels in 10 classes (Krizhevsky, 2009); 45,000 / 5,000 / 10,000."""

import gzip
import io

import numpy as np
from jaxtyping import UInt8

from batchscale.errors import InputError
from batchscale.measure.data.examples import Content, Examples
from batchscale.measure.data.files.archives import read_members
from batchscale.measure.data.files.downloads import Mirror
from batchscale.measure.data.files.packings import PLAIN, DataFile, Files
from batchscale.measure.data.images import hold_out, image_classes
from batchscale.measure.data.recipe import Recipe

CLASSES = 10
VALIDATION_EXAMPLES = 5_000
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE**2
"""A label, then the red, the green and the blue pixels, each row by row."""
RECORDS = 10_000
TRAIN = [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)]
TEST = "cifar-10-batches-bin/test_batch.bin"
DOWNLOAD_SECONDS = 1200.0


def split_cifar(files: Files) -> Content:
    """Split the published archive of six files; validation is held out of the five of the train set."""
    (archive,) = files.values()
    with gzip.open(io.BytesIO(archive)) as stream:
        found = read_members(stream, dict.fromkeys([*TRAIN, TEST], RECORDS * RECORD_BYTES))
    validation, train = hold_out(read_records(b"".join(found[name] for name in TRAIN)), VALIDATION_EXAMPLES)
    return image_classes(train, validation, read_records(found[TEST]), CLASSES)


def read_records(data: bytes) -> Examples:
    """Return the pictures [N, H, W, C] and labels of a file.

    Raises:
        InputError: when the file does not hold whole records, or a label is no class.
    """
    if len(data) % RECORD_BYTES:
        raise InputError(f"CIFAR-10: {len(data)} bytes, expected a multiple of {RECORD_BYTES}")
    records: UInt8[np.ndarray, "example byte"] = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0]
    if labels.max(initial=0) >= CLASSES:
        raise InputError(f"CIFAR-10: label {labels.max()}, expected 0 to {CLASSES - 1}")
    planes = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return Examples(np.ascontiguousarray(np.moveaxis(planes, 1, 3)), labels)


RECIPE = Recipe(
    files=(
        DataFile(
            "cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            170_052_171,
        ),
    ),
    sources=(Mirror("https://www.cs.toronto.edu/~kriz", PLAIN, total_seconds=DOWNLOAD_SECONDS),),
    make=split_cifar,
)
