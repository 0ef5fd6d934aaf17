"""One file of a dataset, and the ways in which it may be packed: plain, gzip, zip, or with a header in front."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

Files = dict[str, bytes]
"""Uncompressed content by file name."""


class Unavailable(Exception):  # noqa: N818 - an answer of a source, not a fault
    """A source cannot give the files; the message gives the reason in one line."""


class Rejected(Unavailable):
    """A source gave content other than the published one."""


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


@dataclass(frozen=True)
class Packing:
    """How a source stores a file.

    Attributes:
        suffix: what it appends to the file's name.
        unpack: returns the content of a stream, at most one byte more than the file should have; takes the stream, the
            file, and the name for messages.
        skipped_bytes: bytes at the beginning of the unpacked content that are not part of the file.
    """

    suffix: str
    unpack: Callable[[IO[bytes], int, str], bytes]
    skipped_bytes: int = 0

    def read(self, stream: IO[bytes], file: DataFile) -> bytes:
        """Return the content of `file`, cut one byte after the size that it should have.

        Raises:
            Rejected: when the stream is not packed in this way.
        """
        content = self.unpack(stream, file.size + self.skipped_bytes, f"{file.name}{self.suffix}")
        return content[self.skipped_bytes :]


def gunzip(stream: IO[bytes], size: int, name: str) -> bytes:
    """Uncompress `stream`, stopping one byte past `size`, so that a longer content shows.

    Raises:
        Rejected: when it is not whole gzip data; `name` is the file named in the message.
    """
    try:
        with gzip.GzipFile(fileobj=stream) as uncompressed:
            return uncompressed.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Rejected(f"{name}: not a whole gzip file ({error})") from None


def unzip(stream: IO[bytes], size: int, name: str) -> bytes:
    """Return the only member of a ZIP archive, stopping one byte past `size`; its name is not used.

    Raises:
        Rejected: when it is not a whole archive of one member; `name` is the file named in the message.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise Rejected(f"{name}: {len(members)} files in the archive, expected 1")
            with archive.open(members[0]) as content:
                return content.read(size + 1)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise Rejected(f"{name}: not a whole ZIP archive ({error})") from None


def _plain(stream: IO[bytes], size: int, name: str) -> bytes:
    del name
    return stream.read(size + 1)


PLAIN = Packing("", _plain)
GZIP = Packing(".gz", gunzip)
ZIP = Packing(".zip", unzip)


def dictzip(header_bytes: int) -> Packing:
    """Return the packing of a dictionary of dictd (gzip with a table of contents) whose header is no part of it."""
    return Packing(".dz", gunzip, header_bytes)
