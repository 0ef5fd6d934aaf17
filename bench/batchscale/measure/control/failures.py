"""Turn a failing device into a status and a message for a row, and stop the run at the third failure in a row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax

from batchscale.errors import DeviceError
from batchscale.printable import LONGEST_REASON, bare

FAILURES = (jax.errors.JaxRuntimeError, MemoryError, TimeoutError)
"""Raised by compiling and running when the device, and not the caller, is at fault."""
NO_KERNELS = "the compiler could not choose kernels"
"""Begins the message of a program whose compiler tried kernels on the device and found none that ran."""
HANGS = "it did not end within"
"""Begins the message of work that was given up, and whose process was ended."""
NOT_TRIED = "not tried"
"""Begins the message of work that was left out, as similar work hangs."""
MOST_IN_A_ROW = 3
LONGEST_MESSAGE = 1000
_REPEATED = re.compile(r"([^:]{4,80}: )\1+")
"""Every step that waited for a failed step puts the same words before that step's message."""
_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|MemoryError|cannot allocate memory|allocate of \S+ failed",
    re.IGNORECASE,
)


_CHOOSING_KERNELS = re.compile(
    rf"{NO_KERNELS}|autotuning failed|no valid config found|no configs could be compiled|all algorithms tried for"
    r"|best cudnn convolution algorithm|conv_algorithm_picker|CUDNN_STATUS_ALLOC_FAILED|in-memory CUBIN"
    r"|shared memory size limit",
    re.IGNORECASE,
)
"""Messages of a GPU's compiler while it times kernels on the device (jax issues 788, 8506, 13612 and 33715). It then
needs memory for their arguments, results and guards, and so can fail where the program itself would fit."""


class Failure(NamedTuple):
    """The status and the message of a row that failed."""

    status: Literal["out_of_memory", "failed"]
    message: str

    @property
    def is_of_one_program(self) -> bool:
        """True if other programs may still work: this one needs too much memory, has no kernels or hangs."""
        return self.status == "out_of_memory" or self.message.startswith((NO_KERNELS, HANGS, NOT_TRIED))


def failure_of(error: Exception) -> Failure:
    """Return the failure that an exception of `FAILURES` reports."""
    return failure_saying(str(error) or type(error).__name__)


def failure_saying(message: str) -> Failure:
    """Return the failure that a message reports; JAX raises one exception for all, so its words decide the status."""
    short = _REPEATED.sub(r"\1", message)[:LONGEST_MESSAGE]
    does_not_fit = _OUT_OF_MEMORY.search(message) and not _CHOOSING_KERNELS.search(message)
    return Failure("out_of_memory" if does_not_fit else "failed", short)


def is_of_choosing_kernels(message: str) -> bool:
    """Return True if a GPU's compiler may have failed for want of memory while it tried kernels.

    XLA checks the memory of a program for a GPU only when the program runs. So a lack of memory while it compiles is
    one of trying kernels.
    """
    return bool(_CHOOSING_KERNELS.search(message) or _OUT_OF_MEMORY.search(message))


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
        """Count a failure of `what`, whose row is written; one of a single program is an answer and does not count.

        Raises:
            DeviceError: at the third in a row.
        """
        if failure.is_of_one_program:
            return
        self.length += 1
        if self.length >= MOST_IN_A_ROW:
            reason = bare(failure.message, LONGEST_REASON)
            raise DeviceError(
                f"{self.length} failures in a row, the last at {what}: {reason};"
                " all rows are kept. Run `batchscale doctor`; then run again to measure the rest, and add"
                " --retry-failed to repeat the failed parts"
            )
