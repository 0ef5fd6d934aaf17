"""Datasets by name: a recipe of `recipes/`, or a file or folder of the user's own."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from batchscale.errors import InputError
from batchscale.measure.data import compression, own_files, recipes
from batchscale.measure.data.examples import LANGUAGE_MODEL, Dataset, Examples
from batchscale.measure.data.files.sources import Answer, all_sources, cache_folder, log, obtain, probe_all
from batchscale.measure.data.made_up import ExampleSpec, example_spec, made_up
from batchscale.measure.data.recipe import Recipe, check_options
from batchscale.printable import bare, printable

__all__ = [
    "Answer",
    "Dataset",
    "ExampleSpec",
    "Examples",
    "available",
    "check",
    "dataset_names",
    "example_spec",
    "load",
    "made_up",
    "recipe_named",
]

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
MADE_HERE = "batchscale"
"""The source of data that needs no file."""


def dataset_names() -> list[str]:
    """Return the names of all datasets: those of the files in `recipes/`."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


def recipe_named(name: str) -> Recipe:
    """Return the recipe of the dataset `name`.

    Raises:
        InputError: when there is no such dataset.
    """
    if name not in (known := dataset_names()):
        raise InputError(
            f"workload.dataset: {printable(name)}, expected one of {', '.join(known)},"
            " or the path of a file or folder, such as data.npz"
        )
    return importlib.import_module(f"{recipes.__name__}.{name}").RECIPE


def check(name: str, options: Mapping[str, Any] = NO_OPTIONS, folder: Path = Path()) -> None:
    """Check the name of a dataset and its options without loading it; the arguments are those of `load`.

    Raises:
        InputError: when there is no such dataset, or it has no such option.
    """
    own = _own_path(name, folder)
    check_options(own_files.reader(own) if own else recipe_named(name).make, options, bare(name))


def load(
    name: str,
    options: Mapping[str, Any] = NO_OPTIONS,
    folder: Path = Path(),
    announce: Callable[[str], object] = log.debug,
) -> Dataset:
    """Return a dataset, a recipe's from the first source that has it.

    Args:
        name: name of a recipe; or the path of a `.npz` file, of a folder of `.npy` files, or of a text.
        options: arguments of the function that makes the dataset, such as `window`.
        folder: what a relative path is relative to.
        announce: receives a line before each step that may take minutes.

    Raises:
        InputError: when there is no such dataset, it cannot be used, or no source has it (then several lines, with
            every source tried).
    """
    check(name, options, folder)
    if own := _own_path(name, folder):
        return own_files.load(name, own, options, announce)
    recipe = recipe_named(name)
    if not recipe.files:
        content = recipe.make(**options)
        return Dataset.of(content, name=name, source=MADE_HERE, sha256=content.digest())
    obtained = obtain(name, recipe.files, all_sources(name, recipe.sources), cache_folder(name), announce)
    content = recipe.make(obtained.files, **options)
    if content.task == LANGUAGE_MODEL:
        (text,) = obtained.files.values()
        content = content.with_facts(compression.bits_per_byte(text, announce))
    return Dataset.of(content, name=name, source=obtained.source, sha256=recipe.sha256)


def available(name: str) -> list[Answer]:
    """Ask every source of the recipe `name`, all at once, without fetching the files.

    Raises:
        InputError: when there is no such dataset.
    """
    recipe = recipe_named(name)
    if not recipe.files:
        return [Answer(MADE_HERE, True, "makes it")]
    return probe_all(recipe.files, all_sources(name, recipe.sources))


def _own_path(name: str, folder: Path) -> Path | None:
    """Return the path of a file or folder of the user's own; None if `name` is a recipe's or no path."""
    if name in dataset_names():
        return None
    path = folder / name
    try:
        is_path = path.suffix != "" or len(path.parts) > len(folder.parts) + 1 or path.exists()
    except (OSError, ValueError):
        return None
    return path if is_path else None
