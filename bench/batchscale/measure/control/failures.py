"""What a failing device becomes: a status and a message for a row, and a stop once three have come in a row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax

from batchscale.errors import DeviceError
from batchscale.printable import LONGEST_REASON, bare

FAILURES = (jax.errors.JaxRuntimeError, MemoryError)
"""What compiling and running raise when the device, and not the caller, is at fault."""
MOST_IN_A_ROW = 3
LONGEST_MESSAGE = 1000
_SAID_AGAIN = re.compile(r"([^:]{4,80}: )\1+")
"""Each step that waited for one that failed says so before what it was that failed."""
_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|MemoryError|cannot allocate memory|allocate of \S+ failed",
    re.IGNORECASE,
)


class Failure(NamedTuple):
    """How something failed."""

    status: Literal["out_of_memory", "failed"]
    message: str


def failure_of(error: Exception) -> Failure:
    """What an exception of `FAILURES` says."""
    return failure_saying(str(error) or type(error).__name__)


def failure_saying(message: str) -> Failure:
    """Told by its words, since JAX has one exception for all."""
    short = _SAID_AGAIN.sub(r"\1", message)[:LONGEST_MESSAGE]
    return Failure("out_of_memory" if _OUT_OF_MEMORY.search(message) else "failed", short)


@dataclass
class Streak:
    """Failures without a success between them."""

    length: int = 0

    def broken(self) -> None:
        """Something succeeded."""
        self.length = 0

    def grown(self, what: str, failure: Failure) -> None:
        """Count a failure of `what`, whose row is written; a lack of memory is an answer and counts as no failure.

        Raises:
            DeviceError: at the third in a row.
        """
        if failure.status == "out_of_memory":
            return
        self.length += 1
        if self.length >= MOST_IN_A_ROW:
            said = bare(failure.message, LONGEST_REASON)
            raise DeviceError(
                f"{self.length} failures in a row, the last at {what}: {said};"
                " all rows are kept. See batchscale doctor; then run again to go on with what is left,"
                " or with --retry-failed to try what failed again"
            )
