"""Programs that the compiler for a TPU refuses because they need more memory than the device has."""

from __future__ import annotations

import re
from typing import NamedTuple

from batchscale.measure.ahead.targets import Target

_AMOUNT = r"(\d+(?:\.\d+)?)([KMGT])"
_REFUSED = re.compile(r"ran out of memory (?:on|in memory space) hbm\b", re.IGNORECASE)
_NEEDED = re.compile(rf"{_AMOUNT}\)? (?:of|exceeds available HBM \() ?{_AMOUNT}", re.IGNORECASE)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class TooLarge(NamedTuple):
    """A program that does not fit.

    Attributes:
        total_bytes: Memory that it needs, to the two decimals that the compiler names; None where it names none.
    """

    total_bytes: int | None


def too_large(target: Target, message: str) -> TooLarge | None:
    """Return what the failure of a compiler says about memory; None if the program may fit.

    A compiler for a GPU checks no memory: there, a lack of it is one of the machine that compiles. What the message
    calls the total includes arguments and results, as programs of known size show (libtpu 0.0.42).
    """
    refused = _REFUSED.search(message)
    if target.platform != "tpu" or refused is None:
        return None
    found = _NEEDED.search(message, refused.end())
    if found is None:
        return TooLarge(None)
    needed, available = _bytes(found[1], found[2]), _bytes(found[3], found[4])
    return TooLarge(needed if needed > available else None)


def _bytes(amount: str, unit: str) -> int:
    return round(float(amount) * _UNITS[unit.upper()])
