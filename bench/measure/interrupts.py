"""Ctrl-C and SIGTERM: the first asks to finish the round and save, the second stops now."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 - what the user asked for is no error
    """The user or the scheduler asked to stop, and what was measured is saved."""


class Stopper:
    """While entered, turns the first signal into a request and the second into KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Stop here if that was asked for; call it where everything measured is on disk.

        Raises:
            Stopped: after a signal.
        """
        if self.requested:
            raise Stopped
