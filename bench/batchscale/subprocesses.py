"""Run other programs: without a shell, with a limit on their time, and with one exception for every fault."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from batchscale.printable import LONGEST_REASON, visible


class CommandError(RuntimeError):
    """A program is missing, failed, or took too long; the message is one short line."""


def run(command: list[str], seconds: float, folder: Path | None = None) -> str:
    """Return the standard output of `command` as text; see `run_binary`."""
    return run_binary(command, seconds, folder).decode(errors="replace")


def run_binary(
    command: list[str], seconds: float, folder: Path | None = None, first_file_seconds: float | None = None
) -> bytes:
    """Return the standard output of a program.

    Args:
        command: the program and its arguments.
        seconds: how long it may run.
        folder: where it runs; by default, here.
        first_file_seconds: how long it may run while `folder` is empty; a download that cannot begin then ends early.

    Raises:
        CommandError: when the program is not installed, exits with an error, or runs for too long.
    """
    program = shutil.which(command[0])
    if program is None:
        raise CommandError(f"{command[0]} is not installed")
    process = subprocess.Popen(  # noqa: S603 - a fixed argument list, no shell
        [program, *command[1:]],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = _wait(process, seconds, folder, first_file_seconds)
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{command[0]} gave no answer in {error.timeout:g} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        raise CommandError(f"{command[0]} failed ({_reason(errors.decode(errors='replace'))})")
    return output


def show(command: list[str]) -> None:
    """Run `command` for as long as it takes, with its output on the terminal.

    Raises:
        CommandError: when it exits with an error.
    """
    if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 - a fixed argument list, no shell
        raise CommandError(f"{' '.join(command[:4])} failed; its message is above")


def _wait(
    process: subprocess.Popen[bytes], seconds: float, folder: Path | None, first_file_seconds: float | None
) -> tuple[bytes, bytes]:
    if folder is None or first_file_seconds is None:
        return process.communicate(timeout=seconds)
    try:
        return process.communicate(timeout=first_file_seconds)
    except subprocess.TimeoutExpired:
        if not any(folder.iterdir()):
            raise
    return process.communicate(timeout=seconds - first_file_seconds)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program if it still runs, and its children, which share its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _reason(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    reported = [line for line in lines if "err" in line.lower() or line.startswith("E:")]
    return visible((reported or lines or ["no message"])[0])[:LONGEST_REASON]
