"""Append-only rows on disk: one writer, whole lines, synced before anyone relies on them."""

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
from batchscale.records.row_types import AnyRow, MachineFile
from batchscale.untrusted_input import REFUSALS, read_json, refuse_endless

LONGEST_LINE_BYTES = 8 << 20
LARGEST_FILE_BYTES = 4 << 30
LARGEST_LABEL_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20

_APPENDING = os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
"""A link in a stranger's folder is not followed: what it points to is not ours to append to."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyRow)


class Writer:
    """Appends rows to one file; holds the file's lock, so a second run on the folder is refused.

    `torn_bytes` is how much of a last line without its end was set aside, `appended` how many rows were written since.

    Raises:
        InputError: when the file cannot be written or another process holds it.
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
        """A crash can leave a last line without its end: its bytes move to a `.torn` file; how many there were."""
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
        """Where the last line that has its end stops, looked for from the back."""
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
            InputError: when the disk refuses (full, read-only, gone) or a row is longer than `read` accepts; what was
                written before stays whole.
        """
        before = os.fstat(self._file).st_size
        lines = [encode(row) for row in rows]
        if max(map(len, lines), default=0) > LONGEST_LINE_BYTES:
            raise InputError(f"{self.path}: a row is longer than {LONGEST_LINE_BYTES} bytes; evaluate less often")
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
    """Hold a results folder against every other run; one that was not there is made, and removed if it stays empty.

    Some network file systems lock files and no folders: there the locks of the rows are what holds.

    Raises:
        InputError: when it cannot be made, or another process holds it.
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
    """The rows of one file, in order; none when the file does not exist. A last line without its end is left out.

    Raises:
        InputError: names the file and line that is not a valid row.
    """
    try:
        if not path.exists():
            return
        refuse_endless(path, LARGEST_FILE_BYTES)
        with path.open("rb") as lines:
            number = 0
            while line := lines.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(line) > LONGEST_LINE_BYTES:
                    raise InputError(f"{path}:{number}: a line longer than {LONGEST_LINE_BYTES} bytes is not a row")
                if not line.endswith(b"\n"):
                    return
                yield decode(line, f"{path}:{number}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def is_torn(path: Path) -> bool:
    """Whether the last line of a rows file lacks its end, so that `read` leaves it out."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            return file.read() not in (b"", b"\n")
    except OSError:
        return False


def decode(line: bytes, source: str) -> AnyRow:
    """One line as a row.

    Raises:
        InputError: names `source` where it is none.
    """
    try:
        return _decoder.decode(line)
    except REFUSALS as error:
        raise InputError(f"{source}: not a valid row ({reason(error)})") from None


def encode(row: AnyRow) -> bytes:
    """A row as one line with its end."""
    return _encoder.encode(row) + b"\n"


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` in one move, so that a reader sees the old file or the new one.

    Raises:
        InputError: when the disk refuses.
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
    """Replace `path` by a value of any row or label type as indented JSON, in one move.

    Raises:
        InputError: when the disk refuses.
    """
    write_whole(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")


def read_machine(folder: Path) -> MachineFile:
    """The `machine.json` of a results folder.

    Raises:
        InputError: when it is missing or not valid.
    """
    return read_json(folder / "machine.json", MachineFile, LARGEST_LABEL_BYTES)
