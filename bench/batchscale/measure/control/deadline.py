"""Give work up that hangs: nothing can end it from outside, so the process writes what it knows and ends."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from batchscale.errors import UserError, warn

HANGS = "the device hangs; all rows are kept. Run the same command again to measure the rest"


@contextmanager
def ends_within(seconds: float, expired: Callable[[], object], line: str = HANGS) -> Iterator[None]:
    """Call `expired` in another thread if the work in the context takes longer, and end the process.

    Args:
        seconds: How long the work may take.
        expired: Writes what must not be lost.
        line: What the user then reads.
    """
    timer = threading.Timer(seconds, _end, [expired, line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(expired: Callable[[], object], line: str) -> NoReturn:
    """End the process with exit status 2, as any failing device does, whatever the writing ends in."""
    try:
        with suppress(UserError):
            expired()
        warn(line)
        sys.stderr.flush()
    finally:
        os._exit(2)
