"""The IDX format of the MNIST family: a magic number, big-endian sizes, then one byte per value."""

from __future__ import annotations

import math
import struct

import numpy as np
from jaxtyping import UInt8

from batchscale.errors import InputError

UNSIGNED_BYTE = 0x08
MOST_DIMENSIONS = 4


def parse(data: bytes, name: str) -> UInt8[np.ndarray, " *sizes"]:
    """The array of an IDX file of unsigned bytes, as a read-only view of `data`; nothing is allocated for it.

    Raises:
        InputError: when `data` is not exactly such a file; `name` is the file named in the message.
    """
    if len(data) < 4 or data[:2] != b"\0\0":
        raise InputError(f"{name}: magic number: does not begin as an IDX file, with two zero bytes")
    kind, dimensions = data[2], data[3]
    if kind != UNSIGNED_BYTE:
        raise InputError(f"{name}: value type: expected 0x08 (unsigned bytes), found {kind:#04x}")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise InputError(f"{name}: dimensions: expected 1 to {MOST_DIMENSIONS}, found {dimensions}")
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise InputError(f"{name}: header: cut off after {len(data)} of {start} bytes")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if math.prod(shape) != len(data) - start:
        raise InputError(f"{name}: length: shape {shape} needs {math.prod(shape)} bytes, found {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
