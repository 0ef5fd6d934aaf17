"""Data files over HTTPS, bounded in time and size."""

from __future__ import annotations

import io
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from typing import NoReturn, Protocol, TypeVar

from batchscale.measure.data.archives import Rejected, Unavailable, gunzip
from batchscale.measure.data.obtain import DataFile, Files
from batchscale.printable import LONGEST_REASON, visible

CONNECT_SECONDS = 3.0
TOTAL_SECONDS = 180.0
CHUNK_BYTES = 1 << 16
GZIP_OVERHEAD_BYTES = 4096

T = TypeVar("T")


class Opener(Protocol):
    """The part of `urllib.request.OpenerDirector` that is used."""

    def open(self, fullurl: urllib.request.Request, *, timeout: float) -> io.BufferedIOBase:
        """Answer a request with a readable response."""
        ...


def https_opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener that knows no other scheme than HTTPS, so that no redirect can lead to one either."""
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
    """A web folder with one `.gz` for every file. Both time-outs are in seconds, `total_seconds` for all files."""

    url: str
    opener: Opener = field(default_factory=https_opener)
    connect_seconds: float = CONNECT_SECONDS
    total_seconds: float = TOTAL_SECONDS
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
        """Whether the smallest file's headers come back."""
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


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises.

    A name look-up cannot be given a time-out, so a call that hangs in one is left behind in a daemon thread.

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


def _raise(error: Exception) -> NoReturn:
    raise error


def one_line(error: Exception) -> str:
    """An exception's own words, cut to `LONGEST_REASON`."""
    return visible(str(getattr(error, "reason", error)))[:LONGEST_REASON]
