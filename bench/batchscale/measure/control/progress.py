"""How far a run is and when it will end, from the work still planned and the speed measured so far."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from batchscale.printable import visible

LINE_SECONDS = 10.0
"""Seconds between progress lines when nobody watches a terminal."""


@dataclass
class Item:
    """One piece of planned work: its amount in any unit, what is done, and seconds per unit as guessed at first."""

    expected: float
    guessed_rate: float
    done: float = 0.0
    seconds: float = 0.0
    closed: bool = False

    def remaining_seconds(self) -> float:
        """Seconds still needed, at the measured rate once a few percent are done."""
        if self.closed:
            return 0.0
        rate = self.done / self.seconds if self.done > 0.03 * self.expected and self.seconds > 0 else self.guessed_rate
        return max(self.expected - self.done, 0.0) / rate


@dataclass
class Progress:
    """The work of a run; writes one live line on a terminal, and a plain line now and then elsewhere."""

    output: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    quiet: bool = False
    items: dict[tuple[str, str], Item] = field(default_factory=dict)
    prefix: str = ""
    last_line: float = -1e9

    def begin(self, experiment: str) -> None:
        """What is planned and done from now on belongs to this experiment."""
        self.prefix = experiment

    def plan(self, name: str, expected: float, rate: float) -> None:
        """Announce work, or revise how much of it there will be; `rate` is units per second until measured."""
        item = self.items.setdefault((self.prefix, name), Item(expected, rate))
        item.expected, item.guessed_rate = max(expected, item.done), rate

    def advance(self, name: str, amount: float, seconds: float, doing: str = "") -> None:
        """Book work done and show the line."""
        item = self.items[self.prefix, name]
        item.done += amount
        item.seconds += seconds
        item.expected = max(item.expected, item.done)
        self.show(f"{name} {doing}".strip())

    def close(self, name: str) -> None:
        """Nothing is left of this item, whatever was expected."""
        if (self.prefix, name) in self.items:
            self.items[self.prefix, name].closed = True

    def remaining_seconds(self) -> float:
        """Seconds until everything planned is done."""
        return sum(item.remaining_seconds() for item in self.items.values())

    def show(self, doing: str, *, force: bool = False, planned: bool = True) -> None:
        """One line: experiment, what is being done, and the time left once all of it is planned."""
        if self.quiet:
            return
        live, now = self.output.isatty(), self.clock()
        if not force and now - self.last_line < (0.2 if live else LINE_SECONDS):
            return
        self.last_line = now
        left = f" | {readable(self.remaining_seconds())} left" if planned else ""
        line = f"{self.prefix} | {doing}{left}"
        self.output.write(f"\r\x1b[2K{line[:150]}" if live else f"{line}\n")
        self.output.flush()

    def end(self) -> None:
        """Clear the live line."""
        if not self.quiet and self.output.isatty():
            self.output.write("\r\x1b[2K")

    def say(self, line: str) -> None:
        """A line that stays, or several, in which only their ends act on the terminal."""
        if not self.quiet:
            shown = "\n".join(map(visible, line.split("\n")))
            self.output.write(("\r\x1b[2K" if self.output.isatty() else "") + shown + "\n")
            self.output.flush()


def readable(seconds: float) -> str:
    """Seconds as `41 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
