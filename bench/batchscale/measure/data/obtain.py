"""Where data files may come from: each source answers with bytes or says in one line why it cannot.

A source is believed only after `obtain` has checked the SHA-256 of the uncompressed bytes, so a mirror or a package
needs no trust. The first source whose files all match wins, and what came over a network is kept in the cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from batchscale.errors import InputError
from batchscale.measure.data.archives import Rejected, Unavailable, gunzip
from batchscale.records import row_files

OFFLINE = "BATCHSCALE_OFFLINE"
log = logging.getLogger("batchscale.data")

Files = dict[str, bytes]


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset: its name, and the SHA-256 and size in bytes of its uncompressed content."""

    name: str
    sha256: str
    size: int

    def check(self, data: bytes) -> None:
        """Compare content with the hash.

        Raises:
            Rejected: naming the file, when `data` is not the published content.
        """
        if len(data) != self.size:
            raise Rejected(f"{self.name}: {_at_most(len(data), self.size)} bytes, should be {self.size}")
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise Rejected(f"{self.name}: content does not match its SHA-256")


@runtime_checkable
class Source(Protocol):
    """Something that may hold data files."""

    @property
    def name(self) -> str:
        """What the user is told."""
        ...

    @property
    def network(self) -> bool:
        """Whether asking it leaves this machine."""
        ...

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Uncompressed, unchecked content by file name.

        Raises:
            Unavailable: when it does not hold them all; `Rejected` when what it holds is damaged.
        """
        ...

    def probe(self, files: Sequence[DataFile]) -> str:
        """A few words on what answers, without fetching it.

        Raises:
            Unavailable: when nothing does.
        """
        ...


@dataclass(frozen=True)
class Folder:
    """Files on this machine, plain or gzipped, in `path`, or rather in its subfolder `dataset` when that has them."""

    path: Path
    name: str
    dataset: str = "."
    network: bool = False

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Read every file, and never more of one than it should hold."""
        return {file.name: self._read(self._find(file), file) for file in files}

    def probe(self, files: Sequence[DataFile]) -> str:
        """Whether every file is there."""
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


class Answer(NamedTuple):
    """What a source said when asked, and whether it has the data."""

    source: str
    answers: bool
    reason: str


class Obtained(NamedTuple):
    """Checked files in the order asked for, and the name of the source they came from."""

    files: Files
    source: str


class NoSourceError(InputError):
    """No source had the data: a first line that says so, then one line per source and what to do."""


def offline() -> bool:
    """Whether the user forbade network sources."""
    return os.environ.get(OFFLINE, "") not in ("", "0")


def obtain(dataset: str, files: Sequence[DataFile], sources: Sequence[Source], cache: Path) -> Obtained:
    """The files of `dataset` from the first source whose content matches every hash.

    Raises:
        NoSourceError: listing what was tried and where to put the files.
    """
    refusals: list[Answer] = []
    for source in sources:
        try:
            content = _verified(source, files)
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
    """What every source says, without fetching anything large; all are asked at once."""

    def ask(source: Source) -> Answer:
        try:
            return Answer(source.name, True, _allowed(source).probe(files))
        except Unavailable as error:
            return Answer(source.name, False, str(error))

    with ThreadPoolExecutor(max_workers=max(1, len(sources))) as pool:
        return list(pool.map(ask, sources))


def _verified(source: Source, files: Sequence[DataFile]) -> Files:
    content = _allowed(source).fetch(files)
    for file in files:
        file.check(content[file.name])
    return content


def _allowed(source: Source) -> Source:
    if source.network and offline():
        raise Unavailable(f"not asked, because {OFFLINE} is set")
    return source


def _keep(content: Files, cache: Path) -> None:
    """Store checked files; a cache that cannot be written costs the next run a download, not this one its data."""
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
        "  or name the folder that holds them: BATCHSCALE_DATA=/path/to/folder",
    ]


def _at_most(size: int, expected: int) -> str:
    """A read stops one byte past the expected size, so a larger file's true size is not known."""
    return f"more than {expected}" if size > expected else str(size)
