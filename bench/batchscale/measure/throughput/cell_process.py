"""Run work that may crash in a child process: one JSON job in, rows out; if the child dies, that becomes a failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import jax
import msgspec

import batchscale
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import CellKey
from batchscale.errors import InputError
from batchscale.measure.control.failures import LONGEST_MESSAGE, Failure, failure_saying
from batchscale.measure.data.made_up import ExampleSpec, example_spec
from batchscale.measure.device.machine import Host, without_paths
from batchscale.measure.session import Session
from batchscale.printable import bare
from batchscale.records import row_files
from batchscale.records.row_types import AnyRow, Compilation, Count, Positive

PACKAGE = Path(batchscale.__file__).resolve().parents[1]
COMMAND = (
    sys.executable,
    "-P",  # without it Python would import modules of the current folder, such as a user's `models`
    "-c",
    f"import sys; sys.path.append({str(PACKAGE)!r});"
    " from batchscale.measure.throughput import child_main; child_main.main()",
)
VARIABLES = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Set before the child imports JAX: two processes share the device, so neither may reserve all of its memory."""
LAST_WORDS_BYTES = 4000
"""How much of the end of standard error is searched for the cause of a death."""
KILLED = "its process was killed (SIGKILL), as a system does with a process that takes too much memory"


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a child process does.

    The child makes up its examples, in the shape of the dataset: speed and memory do not depend on their values.

    Attributes:
        task: "time" times the cell `key`; "max_batch_size" searches for the largest batch size up to that of `key`.
        experiment: The experiment of the session.
        host: Named by the rows.
        sources: The folder that paths of the experiment are relative to.
        platform: JAX's backend, on which the child has to run too.
        examples: Shapes and types of the dataset's examples.
        train_examples: Size of the train split.
        key: The cell.
        lowering: Lowering of its convolutions.
        first_round: Number of the first round that is missing.
        memory_bytes: Memory that the cell's program may use.
    """

    task: Literal["time", "max_batch_size"]
    experiment: Experiment
    host: Host
    sources: str
    platform: str
    examples: ExampleSpec
    train_examples: Positive
    key: CellKey
    lowering: str | None
    first_round: Count = 0
    memory_bytes: Count

    @classmethod
    def of(cls, session: Session, **task: Any) -> Self:
        """Return the job of a session's cell; `task` holds the fields that differ between jobs."""
        return cls(
            experiment=session.experiment,
            host=session.host,
            sources=str(session.sources),
            platform=jax.default_backend(),
            examples=example_spec(session.dataset),
            train_examples=session.train_examples,
            **task,
        )


class ChildError(RuntimeError):
    """The child process did not finish its job.

    Attributes:
        failure: Why.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Child:
    """A child process with a job: it runs while the context is entered, and is killed with its own children at exit.

    It is started in a new session of the operating system, so that a signal to this process does not reach it and its
    current row is finished.
    """

    def __init__(self, job: Job, command: tuple[str, ...] = COMMAND, variables: Mapping[str, str] = VARIABLES) -> None:
        self._job, self._command, self._variables = job, command, variables

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
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def rows(self) -> Iterator[AnyRow]:
        """Yield the rows of the job as they are measured.

        Raises:
            ChildError: When the process wrote something other than a row, or died.
        """
        process = self._process
        if process.stdin is None or process.stdout is None:
            return
        with suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(self._job) + b"\n")
            process.stdin.flush()
        while line := process.stdout.readline(row_files.LONGEST_LINE_BYTES):
            yield self._explained(_row(line))
        if process.wait() != 0:
            raise ChildError(self._death(process.returncode))

    def _death(self, status: int) -> Failure:
        """Return the failure that the exit status and the end of standard error show."""
        if status == -signal.SIGKILL:
            return Failure("out_of_memory", KILLED)
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return failure_saying(f"its process {how}: {self._last_words() or 'it wrote no message'}")

    def _explained(self, row: AnyRow) -> AnyRow:
        """Add the end of standard error to a failure: some libraries report only there that memory ran out."""
        if not isinstance(row, Compilation) or row.status != "failed":
            return row
        failure = failure_saying(f"{row.message} ({self._last_words()})")
        return msgspec.structs.replace(row, status=failure.status, message=failure.message)

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_WORDS_BYTES))
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return bare(without_paths(" ".join(lines[-2:])), LONGEST_MESSAGE // 2)


def _row(line: bytes) -> AnyRow:
    try:
        return row_files.decode(line, "its process")
    except InputError as error:
        raise ChildError(Failure("failed", str(error))) from None
