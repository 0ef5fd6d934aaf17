"""Compile several programs next to each other, before any of them is timed. Compiling leaves other threads free."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

MOST_THREADS = 8
"""Compilations at a time, at most; each needs hundreds of megabytes of host memory."""
LOOK_SECONDS = 0.1


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
            self.changed.set()

    def end(self) -> None:
        """Start none of the programs that wait."""
        with suppress(queue.Empty):
            while True:
                self.waiting.get_nowait()


def compile_together(
    programs: Mapping[str, Callable[[], object]],
    threads: int,
    look: Callable[[str], object] = lambda _: None,
    seconds: float | None = None,
) -> list[str]:
    """Compile programs and wait for them.

    Args:
        programs: What each is called, and the work that compiles it and keeps the result.
        threads: Compilations at a time.
        look: Called again and again with what is being compiled; may raise to end the wait.
        seconds: A program that takes longer is late, and is not waited for.

    Returns:
        The names of the programs that are late.
    """
    made, late = Compilations(), []
    for one in programs.items():
        made.waiting.put(one)
    for _ in range(min(threads, MOST_THREADS, len(programs))):
        made.start()
    try:
        while len(made.done | set(late)) < len(programs):
            running = {name: time.monotonic() - since for name, since in list(made.running.items())}
            for name, elapsed in running.items():
                if seconds is not None and elapsed > seconds and name not in late:
                    late.append(name)
                    made.start()
            shown = [f"{name} ({elapsed:.0f} s)" for name, elapsed in running.items() if name not in late]
            look(f"compiling {', '.join(shown)}")
            made.changed.wait(LOOK_SECONDS)
            made.changed.clear()
    finally:
        made.end()
    return [name for name in late if name not in made.done]
