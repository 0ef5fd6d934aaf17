"""Arrays in NumPy's files, from strangers: no pickle is loaded, and no memory is taken for a promise.

What a header promises is checked against the size of the file, and that against the memory that is free.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Shaped

from batchscale.errors import InputError
from batchscale.measure.data.arrays import NAMES
from batchscale.measure.device.machine import available_memory_bytes
from batchscale.printable import reason
from batchscale.untrusted_input import refuse_endless

Arrays = dict[str, np.ndarray]
COPIES = 3
"""So often the values are in memory at once: as read, as converted, and on a device that shares it."""
MOST_FILE_BYTES = 1 << 40
NUMBERS = "biufc"


def npz(path: Path, source: str) -> Arrays:
    """Return the arrays of a `.npz` file that have one of `NAMES`; others are not read.

    Raises:
        InputError: when the file is damaged, or an array is not made of numbers; `source` names the file in messages.
    """
    try:
        refuse_endless(path, MOST_FILE_BYTES)
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: info for name, info in members.items() if name in NAMES}
            _refuse_what_does_not_fit(sum(info.file_size for info in wanted.values()), source)
            found = {}
            for name, info in wanted.items():
                with archive.open(info) as member:
                    found[name] = _array(cast(io.BufferedIOBase, member), info.file_size, f"{source}: {name}")
            return found
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or reason(error)})") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{source}: not a whole .npz file ({reason(error)})") from None


def folder(path: Path, source: str) -> Arrays:
    """Return the arrays of the `.npy` files in a folder that have one of `NAMES`, mapped from disk.

    Raises:
        InputError: when a file is damaged, or an array is not made of numbers; `source` names the folder in messages.
    """
    found = {}
    for name in NAMES:
        file = path / f"{name}.npy"
        if file.is_file():
            found[name] = _mapped(file, f"{source}: {name}")
    return found


def _mapped(file: Path, field: str) -> Shaped[np.ndarray, " ..."]:
    try:
        with file.open("rb") as stream:
            _shape_and_type(stream, field)
        return np.lib.format.open_memmap(file, mode="r")
    except OSError as error:
        raise InputError(f"{field}: cannot be read ({error.strerror or reason(error)})") from None
    except (ValueError, EOFError, OverflowError) as error:
        raise InputError(f"{field}: not a whole .npy file ({reason(error)})") from None


def _array(member: io.BufferedIOBase, size: int, field: str) -> Shaped[np.ndarray, " ..."]:
    """Read an array from a file of `size` bytes; its header gives the shape and the type of the values after it."""
    shape, fortran, dtype = _shape_and_type(member, field)
    expected, found = math.prod(shape) * dtype.itemsize, size - member.tell()
    if expected != found:
        raise InputError(f"{field}: {found} bytes of values, expected {expected} for shape {list(shape)}")
    values = np.empty(expected, np.uint8)
    view, filled = values.data, 0
    while filled < expected and (count := member.readinto(view[filled:])):
        filled += count
    if filled < expected:
        raise InputError(f"{field}: cut off after {filled} bytes, expected {expected}")
    return values.view(dtype).reshape(shape, order="F" if fortran else "C")


def _shape_and_type(stream: io.BufferedIOBase, field: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a `.npy` file."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            raise InputError(f"{field}: version {version} of the .npy format, expected (1, 0) or (2, 0)")
        shape, fortran, dtype = readers[version](stream)
    except InputError:
        raise
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(f"{field}: not a .npy file ({reason(error)})") from None
    if dtype.kind not in NUMBERS or dtype.itemsize == 0:
        kind = "Python objects" if dtype.hasobject else f"type {dtype}"
        raise InputError(f"{field}: holds {kind}, expected numbers")
    if len(shape) > 8 or any(length < 0 for length in shape):
        raise InputError(f"{field}: shape {list(shape)}, expected at most 8 axes")
    return shape, fortran, dtype


def _refuse_what_does_not_fit(size: int, source: str) -> None:
    if COPIES * size > (free := available_memory_bytes()):
        raise InputError(
            f"{source}: {size / 2**30:,.1f} GiB of arrays, expected at most {free / COPIES / 2**30:,.1f} GiB with the"
            " memory that is free; a folder of .npy files is mapped instead"
        )
