"""Workers in Slurm jobs, submitted with submitit; their lines come back through files that all nodes share."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from batchscale.errors import InputError
from batchscale.measure.cluster import worker_process
from batchscale.measure.cluster.scheduler import Event, Place, variables
from batchscale.printable import printable, reason

OPTIONS = {
    "account": "slurm_account",
    "constraint": "slurm_constraint",
    "cpus": "cpus_per_task",
    "gres": "slurm_gres",
    "mem": "slurm_mem",
    "partition": "slurm_partition",
    "qos": "slurm_qos",
    "time": "timeout_min",
}
"""Names of options, and submitit's names of them; `time` is in minutes."""
NUMBERS = ("cpus", "time")
CLUSTER, CLUSTERS = "cluster", ("slurm", "local")
"""A further option, and its values: `local` runs the jobs on this machine, one after another, to try without Slurm."""
SHARED_FILE_SECONDS = 20.0
"""How long the last lines of a finished job may take to appear in its file."""
LAST = b'{"kind":"ended"'


def options(text: str) -> dict[str, str]:
    """Return options such as `partition=gpu,time=60`.

    Raises:
        InputError: When one has no value, is not known, or is not a number where it must be.
    """
    found: dict[str, str] = {}
    for word in text.split(","):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not (equals and value) or name not in (*OPTIONS, CLUSTER):
            known = ", ".join(f"{one}=" for one in (*OPTIONS, CLUSTER))
            raise InputError(f"--slurm: {printable(word)}, expected options of {known} separated by commas")
        if name in NUMBERS and not (value.isdecimal() and int(value)):
            raise InputError(f"--slurm: {name}: {printable(value)}, expected a whole number above 0")
        if name == CLUSTER and value not in CLUSTERS:
            raise InputError(f"--slurm: {name}: {printable(value)}, expected {' or '.join(CLUSTERS)}")
        found[name] = value
    return found


@dataclass
class SlurmJob:
    """A job that was submitted.

    Attributes:
        path: The file of its lines.
        submitted: submitit's job; None as long as it waits for others on this machine.
        place: Where it runs.
        work: What it does.
        read: Bytes of the file that were read.
        last: The last line read.
        ended: When it was first seen to have ended.
    """

    path: Path
    place: Place
    work: bytes
    submitted: Any = None
    read: int = 0
    last: bytes = b""
    ended: float | None = None


class SlurmJobs:
    """A scheduler that submits jobs to Slurm. Its nodes are of one kind: those that the options select.

    Args:
        chosen: Options by name, see `OPTIONS`.
        folder: Where files are kept as long as jobs run; every node must see it.
        platforms: `JAX_PLATFORMS` as the user has set it.

    Raises:
        InputError: When submitit is not installed, or there is no Slurm.
    """

    def __init__(self, chosen: Mapping[str, str], folder: Path, platforms: str | None = None) -> None:
        try:
            self._submitit = importlib.import_module("submitit")
        except ModuleNotFoundError:
            message = "--slurm: submitit is not installed, expected it: pip install '.[slurm]' in a clone of batchscale"
            raise InputError(message) from None
        self._chosen, self._platforms = dict(chosen), platforms
        self._cluster = self._chosen.pop(CLUSTER, "slurm")
        if self._cluster == "slurm" and shutil.which("sbatch") is None:
            raise InputError(f"--slurm: sbatch is not found, expected Slurm here, or {CLUSTER}=local to try without")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=".slurm-", dir=folder)).absolute()
        self._jobs: dict[int, SlurmJob] = {}
        self._waiting: deque[int] = deque()
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel(list(self._jobs))
        shutil.rmtree(self._folder, ignore_errors=True)

    def nodes(self) -> list[str]:
        """Return one name: any node that the options select."""
        chosen = ", ".join(f"{name}={value}" for name, value in self._chosen.items())
        return [f"{self._cluster} ({chosen})" if chosen else self._cluster]

    def start(self, works: Sequence[bytes], place: Place) -> list[int]:
        """Submit jobs: several at once are one job array.

        Raises:
            InputError: When Slurm refuses them.
        """
        tickets = []
        for work in works:
            self._count += 1
            self._jobs[self._count] = SlurmJob(self._folder / f"{self._count}.jsonl", place, work)
            tickets.append(self._count)
        if self._cluster == "local":
            self._waiting.extend(tickets)
            self._go_on()
        else:
            self._submit(tickets, place)
        return tickets

    def _submit(self, tickets: Sequence[int], place: Place) -> None:
        executor = self._submitit.AutoExecutor(folder=self._folder / "logs", cluster=self._cluster)
        executor.update_parameters(**self._parameters(place))
        platform = place.platform or ("gpu" if "gpu" in self._chosen.get("gres", "") else None)
        given = dict(variables(platform, self._platforms))
        try:
            with ExitStack() as array:
                if self._cluster == "local":
                    array.enter_context(_apart(self._folder / "errors"))
                if len(tickets) > 1:
                    array.enter_context(executor.batch())
                for ticket in tickets:
                    job = self._jobs[ticket]
                    job.submitted = executor.submit(worker_process.write_lines, job.work, given, job.path)
        except (RuntimeError, OSError) as error:
            for ticket in tickets:
                self._jobs[ticket].submitted = None
            raise InputError(f"--slurm: the jobs were refused ({reason(error)})") from None

    def _parameters(self, place: Place) -> dict[str, Any]:
        """Return submitit's parameters: a node for itself, or one accelerator."""
        values = {name: int(value) if name in NUMBERS else value for name, value in self._chosen.items()}
        found: dict[str, Any] = {OPTIONS[name]: value for name, value in values.items()}
        if place.whole or place.platform != "gpu":
            found["slurm_exclusive"] = True
        elif "gres" not in self._chosen:
            found["gpus_per_node"] = 1
        return {"name": "batchscale", **found}

    def _go_on(self) -> None:
        """Submit the next job on this machine once the one before has ended."""
        busy = any(job.submitted is not None for job in self._jobs.values())
        if self._waiting and not busy:
            ticket = self._waiting.popleft()
            self._submit([ticket], self._jobs[ticket].place)

    def events(self, seconds: float) -> list[Event]:
        """Return the news of all jobs."""
        found = [event for ticket in list(self._jobs) for event in self._news(ticket)]
        self._go_on()
        if not found:
            time.sleep(seconds)
        return found

    def _news(self, ticket: int) -> list[Event]:
        job = self._jobs[ticket]
        if job.submitted is None:
            return []
        # Asked before the file is read: what a job has written is then there, if files are shared at once.
        ended = job.submitted.done()
        lines = _new_lines(job)
        found = [Event(ticket, line) for line in lines]
        if ended:
            job.ended = job.ended or time.monotonic()
            whole = job.last.startswith(LAST)
            if whole or time.monotonic() - job.ended > self._patience:
                del self._jobs[ticket]
                found.append(Event(ticket, lost=None if whole else self._cause(job)))
        return found

    @property
    def _patience(self) -> float:
        return 0.0 if self._cluster == "local" else SHARED_FILE_SECONDS

    @staticmethod
    def _cause(job: SlurmJob) -> str:
        """Return in words how a job ended that did not report it."""
        lines = [line for line in (job.submitted.stderr() or "").splitlines() if line.strip()]
        return f"job {job.submitted.job_id} ended as {job.submitted.state}: {lines[-1] if lines else 'no message'}"

    def where(self, ticket: int) -> str | None:
        """Return the number of a job once its worker has answered."""
        job = self._jobs.get(ticket)
        return f"job {job.submitted.job_id}" if job and job.read else None

    def cancel(self, tickets: Collection[int]) -> None:
        """Cancel jobs."""
        for ticket in list(tickets):
            job = self._jobs.pop(ticket, None)
            # A job that neither waits nor was submitted was refused.
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            elif job and job.submitted is not None:
                with suppress(OSError, RuntimeError):
                    job.submitted.cancel()


@contextmanager
def _apart(errors: Path) -> Iterator[None]:
    """Let submitit start the process that runs a job on this machine apart from the terminal: it has no option for it.

    Ctrl-C would reach that process too, and both that and cancelling it would end in its traceback on the terminal.

    Args:
        errors: The file of its standard error.
    """
    local: Any = importlib.import_module("submitit.local.local")
    before = local.subprocess
    with errors.open("ab") as file:
        started = partial(subprocess.Popen, start_new_session=True, stderr=file)
        local.subprocess = SimpleNamespace(Popen=started)
        try:
            yield
        finally:
            local.subprocess = before


def _new_lines(job: SlurmJob) -> list[bytes]:
    """Return the whole lines that a job has written since the last call."""
    with suppress(FileNotFoundError), job.path.open("rb") as file:
        file.seek(job.read)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        job.read += len(whole)
        lines = whole.splitlines(keepends=True)
        job.last = lines[-1] if lines else job.last
        return lines
    return []
