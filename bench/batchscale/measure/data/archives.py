"""Take known files out of compressed streams and archives, reading no more than they may hold."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from typing import IO, Protocol

MOST_ARCHIVE_BYTES = 512 << 20


class Unavailable(Exception):  # noqa: N818 - an answer of a source, not a fault
    """A source cannot give the files; the message is one line that says why."""


class Rejected(Unavailable):
    """A source gave something else than it should have."""


class Readable(Protocol):
    """The part of a binary file that is used."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        ...


def gunzip(stream: IO[bytes], size: int, name: str) -> bytes:
    """Uncompress `stream`, stopping one byte past `size` so that a longer content shows.

    Raises:
        Rejected: when it is not whole gzip data; `name` is the file named in the message.
    """
    try:
        with gzip.GzipFile(fileobj=stream) as uncompressed:
            return uncompressed.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Rejected(f"{name}: not a whole gzip file ({error})") from None


def read_members(stream: Readable, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """The regular files of an uncompressed tar stream named by the keys of `sizes` (full member names, bytes at most).

    Nothing is unpacked to disk, links are not followed, and the archive is read once, `MOST_ARCHIVE_BYTES` at most.

    Raises:
        Rejected: when the archive is damaged, too large, or a member is missing or larger than its size.
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


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    if member.size > size or member.issparse():
        raise Rejected(f"{member.name}: {member.size} bytes in the archive, should be at most {size}")
    content = archive.extractfile(member)
    return content.read(size) if content else b""


class _Bounded(io.RawIOBase):
    """A stream that ends in an error after `MOST_ARCHIVE_BYTES`, whatever an archive's headers promise."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = MOST_ARCHIVE_BYTES

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise Rejected(f"more than {MOST_ARCHIVE_BYTES} bytes")
        return data
