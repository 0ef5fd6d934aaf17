"""Append-only rows on disk: one writer at a time, whole lines, synced before anything relies on them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import msgspec

from batchscale.errors import InputError
from batchscale.printable import reason
from batchscale.records.row_types import AnyRow
from batchscale.untrusted_input import REFUSALS, is_there, refuse_endless

LONGEST_LINE_BYTES = 8 << 20
"""A longer line is not a row: reading it could fill the memory."""
LARGEST_FILE_BYTES = 4 << 30
"""A larger file of rows is not read."""
BLOCK_BYTES = 1 << 20
"""The end of a file is searched for its last whole line in blocks of this size."""

_APPENDING = os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
"""Do not follow links: in a folder from somebody else, a link may point to a file that is not ours to append to."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyRow)


class Writer:
    """Appends rows to one file; holds the file's lock, so a second run on the folder is refused.

    Attributes:
        path: The file.
        appended: Number of rows written so far.
        torn_bytes: Size of an incomplete last line that was moved to a `.torn` file, 0 if there was none.

    Raises:
        InputError: if the file cannot be written or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.appended = path, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | _APPENDING, 0o644)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise InputError(f"{path}: cannot be written (not a regular file)")
        doing = "locked"
        try:
            _lock(self._file, path)
            doing = "read"
            self.torn_bytes = self._set_torn_line_aside()
        except InputError:
            os.close(self._file)
            raise
        except OSError as error:
            os.close(self._file)
            raise InputError(f"{path}: cannot be {doing} ({error.strerror})") from None

    def _set_torn_line_aside(self) -> int:
        """Move an incomplete last line, which a crash can leave, to a `.torn` file; return its size in bytes."""
        size, end = os.fstat(self._file).st_size, self._end_of_whole_lines()
        if end == size:
            return 0
        torn = self.path.with_suffix(".torn")
        try:
            moved = os.open(torn, os.O_WRONLY | _APPENDING, 0o644)
            with self.path.open("rb") as rows, os.fdopen(moved, "ab") as aside:
                rows.seek(end)
                shutil.copyfileobj(rows, aside)
                aside.write(b"\n")
            os.ftruncate(self._file, end)
        except OSError as error:
            raise InputError(f"{torn}: cannot hold the torn last line of {self.path.name} ({error.strerror})") from None
        return size - end

    def _end_of_whole_lines(self) -> int:
        """Return the offset after the last complete line, searched from the end of the file."""
        stop = os.fstat(self._file).st_size
        while stop > 0:
            start = max(0, stop - BLOCK_BYTES)
            found = os.pread(self._file, stop - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            stop = start
        return 0

    def append(self, *rows: AnyRow) -> None:
        """Write rows as whole lines and wait until the disk has them.

        Raises:
            InputError: if the file cannot be written (disk full, read-only, removed) or a row is longer than `read`
                accepts. Rows written before stay whole.
        """
        before = os.fstat(self._file).st_size
        lines = [encode(row) for row in rows]
        if (longest := max(map(len, lines), default=0)) > LONGEST_LINE_BYTES:
            found = f"a row of {longest} bytes, expected at most {LONGEST_LINE_BYTES}"
            raise InputError(f"{self.path}: {found}; evaluate less often")
        data = b"".join(lines)
        try:
            if os.fstat(self._file).st_nlink == 0:
                raise OSError(errno.ENOENT, "the results folder was removed")
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, before)
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); rows before it are whole") from None
        self.appended += len(rows)

    def close(self) -> None:
        """Release the file and its lock."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock a results folder against every other run. Create it if needed, and remove it again if it stays empty.

    Some network file systems can lock files but not folders; there, only the locks of the row files protect it.

    Raises:
        InputError: if it cannot be created, or another process has locked it.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        with suppress(OSError):
            _lock(held, folder)
        yield
    finally:
        os.close(held)
        with suppress(OSError):
            for one in made:
                one.rmdir()


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: another run is writing here; wait for it, or give another --results") from None


def read(path: Path) -> Iterator[AnyRow]:
    """Read the rows of one file in order; none if it does not exist. An incomplete last line is left out.

    Raises:
        InputError: names the file and line that is not a valid row.
    """
    try:
        if not is_there(path):
            return
        refuse_endless(path, LARGEST_FILE_BYTES)
        with path.open("rb") as lines:
            number = 0
            while line := lines.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(line) > LONGEST_LINE_BYTES:
                    raise InputError(f"{path}:{number}: not a row: a line of more than {LONGEST_LINE_BYTES} bytes")
                if not line.endswith(b"\n"):
                    return
                yield decode(line, f"{path}:{number}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def is_torn(path: Path) -> bool:
    """Return True if the last line of a file of rows is incomplete, so that `read` leaves it out."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            return file.read() not in (b"", b"\n")
    except OSError:
        return False


def decode(line: bytes, source: str) -> AnyRow:
    """Decode one line as a row.

    Raises:
        InputError: if it is not a valid row; names `source`.
    """
    try:
        return _decoder.decode(line)
    except REFUSALS as error:
        raise InputError(f"{source}: not a valid row ({reason(error)})") from None


def encode(row: AnyRow) -> bytes:
    """Encode a row as one line, line end included."""
    return _encoder.encode(row) + b"\n"


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder for files before the work that they hold is done; nothing is made.

    Raises:
        InputError: if it is no folder, or it or the folder that it would be made in cannot be written to.
    """
    whole = folder.absolute()
    there = next(one for one in (whole, *whole.parents) if os.path.lexists(one))
    number = None if there.is_dir() else errno.ENOTDIR
    if number is None and not os.access(there, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number is not None:
        raise InputError(f"{folder}: cannot be written ({os.strerror(number)})")


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` in one move, so that a reader sees either the old file or the new one.

    Raises:
        InputError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def write_json(path: Path, value: object) -> None:
    """Replace `path` in one move by a value encoded as indented JSON.

    Args:
        path: The file.
        value: Anything that msgspec can encode.

    Raises:
        InputError: if it cannot be written.
    """
    write_whole(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")
