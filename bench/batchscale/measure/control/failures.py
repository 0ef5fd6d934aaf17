"""Turn a failing device into a status and a message for a row, and stop the run at the third failure in a row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax

from batchscale.errors import DeviceError
from batchscale.printable import LONGEST_REASON, bare

FAILURES = (jax.errors.JaxRuntimeError, MemoryError)
"""Raised by compiling and running when the device, and not the caller, is at fault."""
MOST_IN_A_ROW = 3
LONGEST_MESSAGE = 1000
_REPEATED = re.compile(r"([^:]{4,80}: )\1+")
"""Every step that waited for a failed step puts the same words before that step's message."""
_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|MemoryError|cannot allocate memory|allocate of \S+ failed",
    re.IGNORECASE,
)


class Failure(NamedTuple):
    """The status and the message of a row that failed."""

    status: Literal["out_of_memory", "failed"]
    message: str


def failure_of(error: Exception) -> Failure:
    """Return the failure that an exception of `FAILURES` reports."""
    return failure_saying(str(error) or type(error).__name__)


def failure_saying(message: str) -> Failure:
    """Return the failure that a message reports; JAX raises one exception for all, so its words decide the status."""
    short = _REPEATED.sub(r"\1", message)[:LONGEST_MESSAGE]
    return Failure("out_of_memory" if _OUT_OF_MEMORY.search(message) else "failed", short)


@dataclass
class Streak:
    """Failures without a success between them.

    Attributes:
        length: how many there are.
    """

    length: int = 0

    def broken(self) -> None:
        """Start again at 0, after a success."""
        self.length = 0

    def grown(self, what: str, failure: Failure) -> None:
        """Count a failure of `what`, whose row is written; out of memory is an answer and does not count.

        Raises:
            DeviceError: at the third in a row.
        """
        if failure.status == "out_of_memory":
            return
        self.length += 1
        if self.length >= MOST_IN_A_ROW:
            reason = bare(failure.message, LONGEST_REASON)
            raise DeviceError(
                f"{self.length} failures in a row, the last at {what}: {reason};"
                " all rows are kept. Run `batchscale doctor`; then run again to measure the rest, and add"
                " --retry-failed to repeat the failed parts"
            )
