"""scikit-learn's digits: 1,797 handwritten digits of 8 x 8 pixels with 17 grey levels; 1,297 / 200 / 300.

Their file is part of this package (its licence is in `digits.LICENSE`), so they need no network.
"""

import io
from pathlib import Path

import numpy as np

from batchscale.measure.data.examples import Content, Examples
from batchscale.measure.data.files.packings import DataFile, Files
from batchscale.measure.data.files.sources import Folder
from batchscale.measure.data.images import hold_out, image_classes
from batchscale.measure.data.recipe import Recipe

CLASSES = 10
VALIDATION_EXAMPLES = 200
TEST_EXAMPLES = 300


def split_digits(files: Files) -> Content:
    """Split a table with one digit a line."""
    (table,) = files.values()
    validation, test, train = hold_out(read_digits(table), VALIDATION_EXAMPLES, TEST_EXAMPLES)
    return image_classes(train, validation, test, CLASSES)


def read_digits(table: bytes) -> Examples:
    """Return the digits of a table: a line holds 64 pixels of 8 x 8, row by row, then the label."""
    values = np.loadtxt(io.BytesIO(table), np.uint8, delimiter=",", ndmin=2)
    return Examples(values[:, :-1].reshape(-1, 8, 8), values[:, -1])


RECIPE = Recipe(
    files=(DataFile("digits.csv", "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8", 264_712),),
    sources=(Folder(Path(__file__).parent, "batchscale's copy of scikit-learn's file"),),
    make=split_digits,
)
