"""Compile several programs next to each other, before any of them is timed. Compiling leaves other threads free.

A GPU's compiler tries kernels on the device, and remembers in this process which were fastest. Two programs of the same
kernels that are compiled at the same time try them twice (XLA's pull request 41620), so that the second one waits for
the first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable, Mapping
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
        kind: Returns what programs of the same kernels have in common, by the name of a program.
        running: Name of each program that is being compiled, and when this began.
        late: Names of those that took too long.
        done: Names of those that were compiled, or could not be.
        changed: Set when one more is done.
    """

    waiting: dict[str, Callable[[], object]]
    kind: Callable[[str], Hashable]
    running: dict[str, float] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    changed: threading.Event = field(default_factory=threading.Event)
    _taking: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Start one more thread."""
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        # A thread may end while programs wait: each of them is taken by the thread that compiles one of its kind.
        while (taken := self._take()) is not None:
            name, compile_it = taken
            # Whoever asks for the program compiles it again, and meets any failure where it is handled.
            with suppress(Exception):
                compile_it()
            with self._taking:
                self.done.add(name)
                self.running.pop(name, None)
            _left.discard((id(self), name))
            self.changed.set()

    def _take(self) -> tuple[str, Callable[[], object]] | None:
        """Return the next program, unless all that wait are of a kind that is being compiled."""
        with self._taking:
            busy = {self.kind(name) for name in self.running if name not in self.late}
            name = next((one for one in self.waiting if self.kind(one) not in busy), None)
            if name is None:
                return None
            self.running[name] = time.monotonic()
            return name, self.waiting.pop(name)

    def elapsed(self) -> dict[str, float]:
        """Return the seconds that each program which is being compiled has taken so far."""
        return {name: time.monotonic() - since for name, since in list(self.running.items())}

    def wait(self) -> None:
        """Wait until one more program is done, or for a moment."""
        self.changed.wait(WATCH_SECONDS)
        self.changed.clear()

    def end(self) -> None:
        """Start none of the programs that wait; name what is still compiled as left behind."""
        with self._taking:
            self.waiting.clear()
        _left.update((id(self), name) for name in list(self.running))
        _left.difference_update((id(self), name) for name in self.done)


def compile_together(
    programs: Mapping[str, Callable[[], object]],
    threads: int,
    watch: Callable[[str], object] = lambda _: None,
    seconds: float | None = None,
    kind: Callable[[str], Hashable] = str,
) -> list[str]:
    """Compile programs and wait for them.

    Args:
        programs: What each is called, and the work that compiles it and keeps the result.
        threads: Compilations at a time.
        watch: Called again and again with what is being compiled; may raise to end the wait.
        seconds: A program that takes longer is late, and another takes its thread. Once all others are done, it is
            waited for as long again, so that nothing is timed meanwhile, and then left behind.
        kind: Returns what programs of the same kernels have in common, by the name of a program; they are compiled one
            after the other.

    Returns:
        The names of the programs that are left behind.
    """
    made = Compilations(dict(programs), kind)
    for _ in range(min(threads, MOST_THREADS, len(programs))):
        made.start()
    try:
        while len(made.done | set(made.late)) < len(programs):
            for name, elapsed in made.elapsed().items():
                if seconds is not None and elapsed > seconds and name not in made.late:
                    made.late.append(name)
                    made.start()
            watch(f"compiling {_shown(made, [name for name in made.elapsed() if name not in made.late])}")
            made.wait()
        while seconds is not None and any(elapsed < 2 * seconds for elapsed in made.elapsed().values()):
            watch(f"waiting for what is late to compile: {_shown(made, made.late)}")
            made.wait()
    finally:
        made.end()
    return [name for name in made.late if name not in made.done]


def _shown(made: Compilations, names: Collection[str]) -> str:
    return ", ".join(f"{name} ({elapsed:.0f} s)" for name, elapsed in made.elapsed().items() if name in names)
