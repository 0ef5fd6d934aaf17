"""Members of tar archives from strangers: read one by one, bounded, never unpacked to disk."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from batchscale.measure.data.files.packings import Rejected

MOST_ARCHIVE_BYTES = 512 << 20


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
    for name, content in _members(stream, sizes.get):
        found[name] = content
        if len(found) == len(sizes):
            return found
    missing = ", ".join(sorted(sizes.keys() - found.keys()))
    raise Rejected(f"the archive lacks {missing}")


def read_matching(stream: Readable, pattern: str, most_bytes: int) -> dict[str, bytes]:
    """Return the regular files of an uncompressed tar stream whose full names match, in the order of their names.

    Args:
        stream: the archive.
        pattern: a regular expression for the whole name.
        most_bytes: bound on all files together.

    Raises:
        Rejected: when the archive is damaged or too large, or the files are larger than `most_bytes`.
    """
    left = most_bytes

    def room(name: str) -> int | None:
        return left if re.fullmatch(pattern, name) else None

    found = []
    for name, content in _members(stream, room):
        found.append((name, content))
        left -= len(content)
    return dict(sorted(found))


def _members(stream: Readable, room: Callable[[str], int | None]) -> Iterator[tuple[str, bytes]]:
    """Yield the regular files for whose name there is room, in bytes."""
    try:
        with tarfile.open(fileobj=_Bounded(stream), mode="r|") as archive:
            for member in archive:
                if member.isreg() and (size := room(member.name)) is not None:
                    yield member.name, _content(archive, member, size)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise Rejected(f"not a whole archive ({error})") from None


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
