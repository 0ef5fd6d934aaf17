"""Run work that may crash in a child process: one JSON job in, rows out; if the child dies, that becomes a failure."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import jax
import msgspec
from msgspec import Meta

from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import CellKey
from batchscale.errors import InputError
from batchscale.measure.control.child_process import ChildProcess, command
from batchscale.measure.control.failures import HANGS, LONGEST_MESSAGE, Failure, failure_saying
from batchscale.measure.data.made_up import ExampleSpec, example_spec
from batchscale.measure.device.machine import Host, without_paths
from batchscale.measure.session import Session
from batchscale.printable import bare
from batchscale.records import row_files
from batchscale.records.row_types import AnyRow, Compilation, Count, Positive

COMMAND = command("batchscale.measure.throughput.cell_main")
VARIABLES = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Set before the child imports JAX: two processes share the device, so neither may reserve all of its memory."""
KILLED = "its process was killed (SIGKILL), as a system does with a process that takes too much memory"


class CellJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cell of a job.

    Attributes:
        key: The cell.
        lowering: Lowering of its convolutions.
        first_round: Rounds of the block that the cell has.
        other_rounds: Rounds that the cell has in other blocks.
    """

    key: CellKey
    lowering: str | None
    first_round: Count = 0
    other_rounds: Count = 0


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a child process does.

    The child makes up its examples, in the shape of the dataset: speed and memory do not depend on their values.

    Attributes:
        task: "time" times the cells; "max_batch_size" searches for the largest batch size up to that of the one cell.
        experiment: The experiment of the session.
        host: Named by the rows.
        sources: The folder that paths of the experiment are relative to.
        platform: JAX's backend, on which the child has to run too.
        examples: Shapes and types of the dataset's examples.
        train_examples: Size of the train split.
        cells: The cells.
        block: The block that is timed.
        process: Number of the process, as rounds name it.
        memory_bytes: Memory that the program of a cell may use.
    """

    task: Literal["time", "max_batch_size"]
    experiment: Experiment
    host: Host
    sources: str
    platform: str
    examples: ExampleSpec
    train_examples: Positive
    cells: Annotated[list[CellJob], Meta(min_length=1)]
    block: Count = 0
    process: Count = 0
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


class Child(ChildProcess):
    """A child process that times cells or looks for the largest batch size."""

    def __init__(self, job: Job, command: tuple[str, ...] = COMMAND, variables: Mapping[str, str] = VARIABLES) -> None:
        self.silent_seconds = job.host.policy.silent_seconds
        super().__init__(job, command, variables, self.silent_seconds)

    def rows(self) -> Iterator[AnyRow]:
        """Yield the rows of the job as they are measured.

        Raises:
            ChildError: When the process wrote something other than a row, or died.
        """
        for line in self.lines():
            yield self._explained(_row(line))
        if self.status != 0:
            raise ChildError(self._death())

    def _death(self) -> Failure:
        """Return the failure that the exit status and the end of standard error show."""
        if self.hung:
            return Failure("failed", f"{HANGS} {self.silent_seconds:g} s, and its process was ended")
        if self.status == -signal.SIGKILL:
            return Failure("out_of_memory", KILLED)
        return failure_saying(f"its process {self.how_it_ended()}: {self._cause() or 'it wrote no message'}")

    def _explained(self, row: AnyRow) -> AnyRow:
        """Add the end of standard error to a failure: some libraries report only there that memory ran out."""
        if not isinstance(row, Compilation) or row.status != "failed":
            return row
        failure = failure_saying(f"{row.message} ({self._cause()})")
        return msgspec.structs.replace(row, status=failure.status, message=failure.message)

    def _cause(self) -> str:
        return bare(without_paths(self.last_words(2)), LONGEST_MESSAGE // 2)


def _row(line: bytes) -> AnyRow:
    try:
        return row_files.decode(line, "its process")
    except InputError as error:
        raise ChildError(Failure("failed", str(error))) from None
