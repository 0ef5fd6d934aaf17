"""Work in a child process: one JSON job on its standard input, lines on its standard output, its end in words."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread, Timer
from typing import Self

import msgspec

import batchscale
from batchscale.records.row_files import LONGEST_LINE_BYTES

PACKAGE = Path(batchscale.__file__).resolve().parents[1]
LAST_WORDS_BYTES = 4000
"""How much of the end of standard error is searched for the cause of a death."""
_LOGGED = re.compile(r"^[IWEF]\d{4} [\d:.]+ +\d+ [^\s\]]+:\d+\] ")
"""What C++ libraries of Google put before a line: level, date, time, thread, file and line."""


def command(module: str) -> tuple[str, ...]:
    """Return the command that calls `main` of a module of this package."""
    return (
        sys.executable,
        "-P",  # without it Python would import modules of the current folder, such as a user's own `models`
        "-c",
        f"import sys; sys.path.append({str(PACKAGE)!r}); import {module}; {module}.main()",
    )


class ChildProcess:
    """A child process with a job: it runs while the context is entered, and is killed with its own children at exit.

    It is started in a new session of the operating system, so that a signal to this process does not reach it and its
    current line is finished.

    Args:
        job: What it does.
        command: Starts it.
        variables: Environment variables in which it differs from this process.
        silent_seconds: A process that writes no line for longer hangs, and is killed; None for no bound.

    Attributes:
        status: Exit status; None as long as it runs. Minus the number of the signal that ended it.
        hung: True if it was killed because it wrote nothing for too long.
    """

    def __init__(
        self,
        job: msgspec.Struct | msgspec.Raw,
        command: tuple[str, ...],
        variables: Mapping[str, str],
        silent_seconds: float | None = None,
    ) -> None:
        self._job, self._command, self._variables, self._silent_seconds = job, command, variables, silent_seconds
        self.hung = False

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(  # noqa: S603 - a fixed argument list, no shell
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **self._variables},
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _give_up(self) -> None:
        self.hung = True
        self._kill()

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Kill the process if it stays silent."""
        if self._silent_seconds is None:
            yield
            return
        timer = Timer(self._silent_seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def status(self) -> int | None:
        """The exit status."""
        return self._process.returncode

    def lines(self) -> Iterator[bytes]:
        """Hand the job in, yield the lines as they come, and wait for the end."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            return
        with suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(self._job) + b"\n")
            process.stdin.flush()
        while line := self._line():
            yield line
        process.wait()

    def _line(self) -> bytes:
        with self._patience():
            return self._process.stdout.readline(LONGEST_LINE_BYTES) if self._process.stdout else b""

    def how_it_ended(self) -> str:
        """Return in words how the process ended, such as "was ended by SIGKILL"."""
        status = self._process.wait()
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"

    def last_words(self, lines: int) -> str:
        """Return the last lines of standard error in one; empty if there are none."""
        return " ".join(self._last_lines()[-lines:])

    def cause(self) -> str:
        """Return the line of standard error that tells why the process ended; empty if there is none.

        That is the last fatal line of a C++ library, which the addresses of its callers follow, or else the last line.
        Time, thread and place in the library are left out.
        """
        lines = self._last_lines()
        fatal = [line for line in lines if line.startswith("F") and _LOGGED.match(line)]
        return _LOGGED.sub("", (fatal or lines or [""])[-1])

    def _last_lines(self) -> list[str]:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_WORDS_BYTES))
        text = self._errors.read().decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()]


def begin() -> tuple[bytes, Callable[[bytes], None]]:
    """Read the job in a child process; return it, and a function that writes one line to the parent process.

    The child ends when the parent ends. What a library prints goes to standard error, so that it is not taken for a
    line.
    """
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = sys.stdin.buffer.readline()
    Thread(target=_end_with_parent, daemon=True).start()

    def write(line: bytes) -> None:
        os.write(output, line)

    return job, write


def _end_with_parent() -> None:
    """Wait until standard input ends, as it does when the parent ends for any reason; then end this process."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
