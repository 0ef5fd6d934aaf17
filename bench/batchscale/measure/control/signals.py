"""Ctrl-C and SIGTERM: the first asks the run to finish its round and save, the second stops it at once."""

from __future__ import annotations

import os
import signal
from threading import Event, Thread
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 10.0
"""How long the second signal may take to have an effect: Python handles none while a library computes."""
ASKED = b"\nstopping after this round; once more stops now\n"
FORCED = b"stopped in mid-work: every row written is whole; the same command again continues\n"


class Stopped(Exception):  # noqa: N818 - what the user asked for is no error
    """The user or the scheduler asked to stop, and everything measured is saved."""


class Stopper:
    """While entered, turns the first signal into a request and the second into KeyboardInterrupt.

    A thread receives signals even while the main thread computes in a library. It answers the first signal at once, and
    ends the process if the second has no effect within `GRACE_SECONDS`.

    Attributes:
        requested: True after the first signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}
        self._wakeup_before, self._writer = -1, -1
        self._left = Event()

    def __enter__(self) -> Self:
        self._left.clear()
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._listener = Thread(target=self._listen, args=(reader,), daemon=True)
        self._listener.start()
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup_before)
        self._left.set()
        os.close(self._writer)
        self._listener.join(GRACE_SECONDS)  # its message must come before the next one

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def _listen(self, reader: int) -> None:
        heard = 0
        with os.fdopen(reader, "rb", buffering=0) as wakes:
            while number := wakes.read(1):
                heard += number[0] in SIGNALS
                if heard == 1:
                    os.write(2, ASKED)
                elif heard > 1 and not self._left.wait(GRACE_SECONDS):
                    os.write(2, FORCED)
                    os._exit(130)

    def check(self) -> None:
        """Stop here if a signal asked for it; call it where everything measured is on disk.

        Raises:
            Stopped: after a signal.
        """
        if self.requested:
            raise Stopped
