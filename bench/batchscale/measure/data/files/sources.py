"""Where the files of a dataset come from: the user's folder, the cache, then the sources that its recipe names.

Every source is untrusted: `obtain` uses content only if its SHA-256 is the published one. So the same bytes give the
same arrays on every machine, whatever the source.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from batchscale.errors import InputError
from batchscale.measure.data.files.packings import GZIP, PLAIN, ZIP, DataFile, Files, Packing, Rejected, Unavailable
from batchscale.printable import LONGEST_REASON, printable
from batchscale.records import row_files

DATA_FOLDER = "BATCHSCALE_DATA"
OFFLINE = "BATCHSCALE_OFFLINE"
log = logging.getLogger("batchscale.data")


class NoSourceError(InputError):
    """No source has the data. The message has one line for this, one line per source, and then what to do."""


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
    """Files on this machine, plain or compressed.

    Attributes:
        path: the folder.
        name: how messages call it.
        dataset: subfolder of `path` that is looked into first.
        packings: how the files may be packed.
        network: always False.
    """

    path: Path
    name: str
    dataset: str = "."
    packings: tuple[Packing, ...] = (PLAIN, GZIP, ZIP)
    network: bool = False

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Read every file, at most one byte further than it should be long."""
        return {file.name: self._read(*self._find(file), file) for file in files}

    def probe(self, files: Sequence[DataFile]) -> str:
        """Return the names of the files, if all are there."""
        return f"has {', '.join(self._find(file)[0].name for file in files)}"

    def _find(self, file: DataFile) -> tuple[Path, Packing]:
        folders = (self.path / self.dataset, self.path)
        candidates = ((folder / f"{file.name}{one.suffix}", one) for folder in folders for one in self.packings)
        found = next((candidate for candidate in candidates if candidate[0].is_file()), None)
        if found is None:
            raise Unavailable(f"no {file.name} in {self.path}")
        return found

    @staticmethod
    def _read(path: Path, packing: Packing, file: DataFile) -> bytes:
        try:
            with path.open("rb") as stream:
                return packing.read(stream, file)
        except OSError as error:
            raise Unavailable(f"{path.name}: cannot be read ({error.strerror})") from None


class Answer(NamedTuple):
    """Whether a source has the data, with its reason or a few words on what it has."""

    source: str
    answers: bool
    reason: str


class Obtained(NamedTuple):
    """Checked files in the order asked for, and the name of the source they came from."""

    files: Files
    source: str


def all_sources(dataset: str, sources: Sequence[Source]) -> list[Source]:
    """Return the user's folder, the cache and then the sources of the dataset's recipe."""
    named = os.environ.get(DATA_FOLDER)
    own = [Folder(Path(named), f"{DATA_FOLDER} folder", dataset)] if named else []
    return [*own, Folder(cache_folder(dataset), "cache"), *sources]


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
        f"  Put {names} (plain, .gz or .zip) into {cache},",
        f"  or name the folder that holds them: {DATA_FOLDER}=/path/to/folder",
    ]
