"""scikit-learn's digits: 1,797 handwritten digits of 8 x 8 pixels with 17 grey levels; 1,297 / 200 / 300.

Their file is part of this package (its licence is in `digits.LICENSE`), so they need no network.
"""

import io
from functools import partial
from pathlib import Path

import numpy as np

from batchscale.measure.data.datasets import DataFile, Examples, Files, Folder, Recipe, Splits, hold_out


def split_digits(files: Files, validation_size: int, test_size: int) -> Splits:
    """Split a table with one digit a line: 64 pixels of 8 x 8, row by row, then the label."""
    (table,) = files.values()
    values = np.loadtxt(io.BytesIO(table), np.uint8, delimiter=",", ndmin=2)
    examples = Examples(values[:, :-1].reshape(-1, 8, 8), values[:, -1])
    validation, test, train = hold_out(examples, validation_size, test_size)
    return Splits(train, validation, test)


RECIPE = Recipe(
    classes=10,
    files=(DataFile("digits.csv", "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8", 264_712),),
    sources=(Folder(Path(__file__).parent, "batchscale's copy of scikit-learn's file"),),
    split=partial(split_digits, validation_size=200, test_size=300),
)
