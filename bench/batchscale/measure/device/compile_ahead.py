"""Compile several programs next to each other, before any of them is timed. Compiling leaves other threads free."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

MOST_THREADS = 16
"""Compilations at a time, at most; each needs hundreds of megabytes of host memory."""
WATCH_SECONDS = 0.1
_left: set[tuple[int, str]] = set()
"""Programs that threads still compile though nobody waits for them any more, each with the number of its group."""


def left_behind() -> list[str]:
    """Return the names of programs that threads of this process still compile, which may disturb what is timed."""
    return sorted(name for _, name in _left)


@dataclass
class Compilations:
    """Programs that are compiled by threads.

    A thread cannot be ended from outside. One that is late is left behind and does not keep the process from ending.

    Attributes:
        waiting: Name of each program that no thread has taken yet, and the work that compiles it.
        running: Name of each program that is being compiled, and when this began.
        done: Names of those that were compiled, or could not be.
        changed: Set when one more is done.
    """

    waiting: queue.SimpleQueue[tuple[str, Callable[[], object]]] = field(default_factory=queue.SimpleQueue)
    running: dict[str, float] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    changed: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start one more thread."""
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                name, compile_it = self.waiting.get_nowait()
            except queue.Empty:
                return
            self.running[name] = time.monotonic()
            # Whoever asks for the program compiles it again, and meets any failure where it is handled.
            with suppress(Exception):
                compile_it()
            self.done.add(name)
            self.running.pop(name, None)
            _left.discard((id(self), name))
            self.changed.set()

    def elapsed(self) -> dict[str, float]:
        """Return the seconds that each program which is being compiled has taken so far."""
        return {name: time.monotonic() - since for name, since in list(self.running.items())}

    def wait(self) -> None:
        """Wait until one more program is done, or for a moment."""
        self.changed.wait(WATCH_SECONDS)
        self.changed.clear()

    def end(self) -> None:
        """Start none of the programs that wait; name what is still compiled as left behind."""
        with suppress(queue.Empty):
            while True:
                self.waiting.get_nowait()
        _left.update((id(self), name) for name in list(self.running))
        _left.difference_update((id(self), name) for name in self.done)


def compile_together(
    programs: Mapping[str, Callable[[], object]],
    threads: int,
    watch: Callable[[str], object] = lambda _: None,
    seconds: float | None = None,
) -> list[str]:
    """Compile programs and wait for them.

    Args:
        programs: What each is called, and the work that compiles it and keeps the result.
        threads: Compilations at a time.
        watch: Called again and again with what is being compiled; may raise to end the wait.
        seconds: A program that takes longer is late, and another takes its thread. Once all others are done, it is
            waited for as long again, so that nothing is timed meanwhile, and then left behind.

    Returns:
        The names of the programs that are left behind.
    """
    made, late = Compilations(), []
    for one in programs.items():
        made.waiting.put(one)
    for _ in range(min(threads, MOST_THREADS, len(programs))):
        made.start()
    try:
        while len(made.done | set(late)) < len(programs):
            for name, elapsed in made.elapsed().items():
                if seconds is not None and elapsed > seconds and name not in late:
                    late.append(name)
                    made.start()
            watch(f"compiling {_shown(made, [name for name in made.elapsed() if name not in late])}")
            made.wait()
        while seconds is not None and any(elapsed < 2 * seconds for elapsed in made.elapsed().values()):
            watch(f"waiting for what is late to compile: {_shown(made, late)}")
            made.wait()
    finally:
        made.end()
    return [name for name in late if name not in made.done]


def _shown(made: Compilations, names: Collection[str]) -> str:
    return ", ".join(f"{name} ({elapsed:.0f} s)" for name, elapsed in made.elapsed().items() if name in names)
