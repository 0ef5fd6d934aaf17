"""A dataset, from the bytes of its files to arrays that are ready to train on.

A file in `recipes/` is a dataset: it names the files that hold the examples, where they may come from, and how they are
split. Every source is untrusted: `obtain` uses content only if its SHA-256 is the published one. So the same bytes give
the same arrays on every machine, whatever the source.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import logging
import os
import pkgutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from batchscale.errors import InputError
from batchscale.measure.data import recipes
from batchscale.measure.data.example_order import held_out_order
from batchscale.printable import LONGEST_REASON, printable
from batchscale.records import row_files

DATA_FOLDER = "BATCHSCALE_DATA"
OFFLINE = "BATCHSCALE_OFFLINE"
log = logging.getLogger("batchscale.data")

Files = dict[str, bytes]
"""Uncompressed content by file name."""


class Unavailable(Exception):  # noqa: N818 - an answer of a source, not a fault
    """A source cannot give the files; the message gives the reason in one line."""


class Rejected(Unavailable):
    """A source gave content other than the published one."""


class NoSourceError(InputError):
    """No source has the data. The message has one line for this, one line per source, and then what to do."""


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset.

    Attributes:
        name: file name, without the suffix of a compression.
        sha256: hash of the uncompressed content, because mirrors compress differently.
        size: bytes of the uncompressed content.
    """

    name: str
    sha256: str
    size: int

    def check(self, data: bytes) -> None:
        """Compare content with the published size and hash.

        Raises:
            Rejected: when they differ; names the file.
        """
        if len(data) != self.size:
            # Readers stop one byte past the expected size, so the true size of a longer file is not known.
            found = f"more than {self.size}" if len(data) > self.size else len(data)
            raise Rejected(f"{self.name}: {found} bytes, expected {self.size}")
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise Rejected(f"{self.name}: content does not match its SHA-256, expected {self.sha256[:12]}...")


@runtime_checkable
class Source(Protocol):
    """A place that may hold data files."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def network(self) -> bool:
        """True if asking it leaves this machine."""
        ...

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Return the content of all files, not yet checked.

        Raises:
            Unavailable: when it does not hold them all; `Rejected` when a file is damaged.
        """
        ...

    def probe(self, files: Sequence[DataFile]) -> str:
        """Return a few words on what answers, without fetching the files.

        Raises:
            Unavailable: when nothing answers.
        """
        ...


@dataclass(frozen=True)
class Folder:
    """Files on this machine, plain or gzipped.

    Attributes:
        path: the folder.
        name: how messages call it.
        dataset: subfolder of `path` that is looked into first.
        network: always False.
    """

    path: Path
    name: str
    dataset: str = "."
    network: bool = False

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Read every file, at most one byte further than it should be long."""
        return {file.name: self._read(self._find(file), file) for file in files}

    def probe(self, files: Sequence[DataFile]) -> str:
        """Return the names of the files, if all are there."""
        return f"has {', '.join(self._find(file).name for file in files)}"

    def _find(self, file: DataFile) -> Path:
        folders = (self.path / self.dataset, self.path)
        candidates = (folder / f"{file.name}{suffix}" for folder in folders for suffix in ("", ".gz"))
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise Unavailable(f"no {file.name} in {self.path}")
        return found

    @staticmethod
    def _read(path: Path, file: DataFile) -> bytes:
        try:
            with path.open("rb") as stream:
                return gunzip(stream, file.size, path.name) if path.suffix == ".gz" else stream.read(file.size + 1)
        except OSError as error:
            raise Unavailable(f"{path.name}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images as published: bytes [N, H, W] and class numbers [N]."""

    images: UInt8[np.ndarray, "examples height width"]
    labels: UInt8[np.ndarray, " examples"]

    def take(self, indices: Int64[np.ndarray, " chosen"]) -> Examples:
        """Return the examples at `indices`, in that order."""
        return Examples(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Splits:
    """Three splits without a common example."""

    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Recipe:
    """Everything a dataset is made of; a module of `recipes/` holds one, called `RECIPE`.

    Attributes:
        classes: number of classes; labels are 0 to `classes` - 1.
        files: the files that hold the examples.
        sources: places that may hold the files, in the order in which they are asked.
        split: makes the three splits of the checked files, given in the order of `files`.
    """

    classes: int
    files: tuple[DataFile, ...]
    sources: tuple[Source, ...]
    split: Callable[[Files], Splits]

    def all_sources(self, dataset: str) -> list[Source]:
        """Return the user's folder, the cache and then the recipe's sources."""
        named = os.environ.get(DATA_FOLDER)
        own = [Folder(Path(named), f"{DATA_FOLDER} folder", dataset)] if named else []
        return [*own, Folder(cache_folder(dataset), "cache"), *self.sources]


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A dataset ready to train on, in host memory.

    Attributes:
        name: name of its recipe.
        classes: number of classes.
        source: name of the source its files came from.
        mean: mean over every value of the train split, in the units of the source (0 to 255 for MNIST).
        standard_deviation: population standard deviation over the same values.
        train_inputs: contiguous, standardised by `mean` and `standard_deviation`; so are the other inputs.
        train_labels: class numbers; so are the other labels.
        validation_inputs: held out of the published train set, to steer by.
        validation_labels: as `train_labels`.
        test_inputs: reported, never steered by.
        test_labels: as `train_labels`.
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


class Answer(NamedTuple):
    """Whether a source has the data, with its reason or a few words on what it has."""

    source: str
    answers: bool
    reason: str


class Obtained(NamedTuple):
    """Checked files in the order asked for, and the name of the source they came from."""

    files: Files
    source: str


def dataset_names() -> list[str]:
    """Return the names of all datasets: those of the files in `recipes/`."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


def recipe_named(name: str) -> Recipe:
    """Return the recipe of the dataset `name`.

    Raises:
        InputError: when there is no such dataset.
    """
    if name not in (known := dataset_names()):
        raise InputError(f"workload.dataset: {printable(name)}, expected one of {', '.join(known)}")
    return importlib.import_module(f"{recipes.__name__}.{name}").RECIPE


def load(name: str, announce: Callable[[str], object] = log.debug) -> Dataset:
    """Return the dataset `name`, from the first source that has it.

    Args:
        name: the dataset.
        announce: receives a line before each source that is asked over the network, which may take minutes.

    Raises:
        InputError: when there is no such dataset, or no source has it (then several lines, with every source tried).
    """
    recipe = recipe_named(name)
    obtained = obtain(name, recipe.files, recipe.all_sources(name), cache_folder(name), announce)
    return standardise(name, recipe.classes, obtained.source, recipe.split(obtained.files))


def available(name: str) -> list[Answer]:
    """Ask every source of `name`, all at once, without fetching the files.

    Raises:
        InputError: when there is no such dataset.
    """
    recipe = recipe_named(name)
    return probe_all(recipe.files, recipe.all_sources(name))


def obtain(
    dataset: str,
    files: Sequence[DataFile],
    sources: Sequence[Source],
    cache: Path,
    announce: Callable[[str], object] = log.debug,
) -> Obtained:
    """Return the files of `dataset` from the first source whose content matches every hash.

    Content that came over the network is kept in the folder `cache`.

    Raises:
        NoSourceError: when there is none; lists the sources tried and where to put the files.
    """
    refusals: list[Answer] = []
    for source in sources:
        if source.network and not offline():
            announce(f"{dataset}: fetching from {source.name}")
        try:
            content = _allowed(source).fetch(files)
            for file in files:
                file.check(content[file.name])
        except Unavailable as error:
            refusals.append(Answer(source.name, False, str(error)))
            if isinstance(error, Rejected):
                log.warning("%s: %s turned down: %s", dataset, source.name, error)
            continue
        if source.network:
            _keep(content, cache)
        return Obtained(content, source.name)
    raise NoSourceError(*_nothing_found(dataset, files, refusals, cache))


def probe_all(files: Sequence[DataFile], sources: Sequence[Source]) -> list[Answer]:
    """Return the answer of every source; all are asked at once, and the files are not fetched."""

    def ask(source: Source) -> Answer:
        try:
            return Answer(source.name, True, _allowed(source).probe(files))
        except Unavailable as error:
            return Answer(source.name, False, str(error))

    with ThreadPoolExecutor(max_workers=max(1, len(sources))) as pool:
        return list(pool.map(ask, sources))


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


def hold_out(examples: Examples, *sizes: int) -> list[Examples]:
    """Return disjoint sets of `sizes` examples, then the rest; each keeps the published order of its examples."""
    sets = np.split(held_out_order(examples.labels), np.cumsum(sizes))
    return [examples.take(np.sort(indices)) for indices in sets]


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
        raise InputError("images: every value of the train split is the same, expected at least two values")
    return first / total, spread**0.5 / total


def standardised_bytes(mean: float, standard_deviation: float) -> Float32[np.ndarray, " 256"]:
    """Return (value - mean) / standard deviation for every byte."""
    return ((np.arange(256) - mean) / standard_deviation).astype(np.float32)


def gunzip(stream: io.BufferedIOBase, size: int, name: str) -> bytes:
    """Uncompress `stream`, stopping one byte past `size`, so that a longer content shows.

    Raises:
        Rejected: when it is not whole gzip data; `name` is the file named in the message.
    """
    try:
        with gzip.GzipFile(fileobj=stream) as uncompressed:
            return uncompressed.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Rejected(f"{name}: not a whole gzip file ({error})") from None


def cache_folder(dataset: str) -> Path:
    """Return `$XDG_CACHE_HOME/batchscale/<dataset>`; an unset or relative `XDG_CACHE_HOME` means `~/.cache`.

    Raises:
        InputError: when there is no home folder either.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise InputError("no home folder: set XDG_CACHE_HOME to a folder where downloaded data may be kept") from None
    return base / "batchscale" / dataset


def folder_fault() -> str:
    """Return what is wrong with the folder that the user named, as one line; empty if nothing is."""
    named = os.environ.get(DATA_FOLDER)
    if not named or Path(named).is_dir():
        return ""
    return f"{DATA_FOLDER}: {printable(named, LONGEST_REASON)} is not a folder, so it is not searched for data"


def offline() -> bool:
    """Return whether the user forbade network sources."""
    return os.environ.get(OFFLINE, "") not in ("", "0")


def _allowed(source: Source) -> Source:
    if source.network and offline():
        raise Unavailable(f"not asked, because {OFFLINE} is set")
    return source


def _keep(content: Files, cache: Path) -> None:
    """Store checked files in the cache.

    If this fails, this run still has its data; the next run downloads it again.
    """
    try:
        for name, data in content.items():
            row_files.write_whole(cache / name, data)
    except (InputError, OSError) as error:
        log.warning("not kept for the next run: %s", error)


def _nothing_found(dataset: str, files: Sequence[DataFile], refusals: Sequence[Answer], cache: Path) -> list[str]:
    tried = [f"  {refusal.source}: {refusal.reason}" for refusal in refusals]
    names = ", ".join(file.name for file in files)
    return [
        f"dataset {dataset}: none of {len(refusals)} sources has it",
        *tried,
        f"  Put {names} (plain or .gz) into {cache},",
        f"  or name the folder that holds them: {DATA_FOLDER}=/path/to/folder",
    ]
