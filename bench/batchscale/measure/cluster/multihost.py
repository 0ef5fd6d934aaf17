"""Several hosts that run one program: the first decides and writes, and all do the same steps at the same time.

Every process does every job of a stage in lockstep, as collective operations demand. Decisions that depend on time or
memory are those of the first process; the others are sent each job as a worker of a cluster is. A signal to any process
stops all of them.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Self

import jax
import msgspec
import numpy as np
from jax.experimental import multihost_utils

from batchscale.errors import DeviceError, InputError, warn
from batchscale.measure.cluster import worker_main
from batchscale.measure.cluster.kinds import RemoteHost
from batchscale.measure.cluster.messages import Instructions, Job, encoded, instructions_of, versions_of
from batchscale.measure.control.deadline import ends_within
from batchscale.measure.control.failures import FAILURES
from batchscale.measure.control.progress import Progress, readable
from batchscale.measure.control.signals import Stopped, Stopper
from batchscale.measure.device import sensors
from batchscale.measure.device.compiled_programs import Work as Steps
from batchscale.measure.device.machine import Host
from batchscale.measure.session import Jobs, Session
from batchscale.measure.throughput import calibration
from batchscale.measure.throughput.stage import Throughput, TimingJob
from batchscale.measure.throughput.timing import Timing
from batchscale.printable import printable, reason

JOIN_SECONDS = 300
"""How long a process waits for the others at the start."""
LATER_SECONDS = 30
"""JAX waits so much longer: at its own end it aborts the process with a trace of its stack."""
SILENT_SECONDS = 2.0
"""A process that waits longer says what for."""
HEARTBEAT_SECONDS = 30
"""After this time without a sign of life a host counts as lost, if no collective operation has noticed it before."""
LONGEST_REFUSAL_BYTES = 512
GONE = (
    "this process was ended at once, by a signal or because the first host is lost; all rows are kept."
    " Start the command on every host again to measure the rest"
)
WATCH = "import sys; sys.stdin.buffer.read() or sys.stderr.write(sys.argv[1])"
"""A program that speaks up if its standard input ends without a word."""
BROKEN = (*FAILURES, ValueError)
"""Raised by collective operations when a host is lost; Gloo's refusal to begin one is a ValueError."""


class Hosts:
    """The processes of one program, as each of them sees it.

    Args:
        processes: The number of processes that `--processes` names; None where it is not given.

    Attributes:
        now: Seconds of all shared work so far, the same number in every process: the clock of the rounds.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.now, self._processes = 0.0, processes

    @classmethod
    @contextmanager
    def joined(
        cls, coordinator: str | None = None, processes: int | None = None, process: int | None = None
    ) -> Iterator[Self]:
        """Join the program; leave it when the context ends.

        Where the others do not come, a host is lost or the devices keep failing, the process ends at once: to leave
        would be to wait for the others, and end in messages of JAX.

        Args:
            coordinator: Address and port of the first process; None leaves it to JAX, which knows Slurm, Open MPI,
                Kubernetes and TPU pods.
            processes: How many there are.
            process: Number of this one, from 0.

        Raises:
            InputError: When the address cannot be, or JAX does not find what is None.
        """
        if coordinator is not None:
            _refuse_unknown(coordinator)
            if process == 0:
                _refuse_taken(int(coordinator.rpartition(":")[2]))
        _keep_standard_output()
        _meet(coordinator, processes, process)
        with _last_word() as leave:
            try:
                yield cls(processes)
            except DeviceError as error:
                warn(str(error))
                sys.stderr.flush()
                leave()
                os._exit(2)

    @property
    def is_first(self) -> bool:
        """True in the process that decides and writes."""
        return jax.process_index() == 0

    def clock(self) -> float:
        """Return the clock of the rounds."""
        return self.now

    def shared(self, work: Steps) -> Steps:
        """Return work that all processes begin together; its time is that of the first one."""

        def together(steps: int) -> None:
            self.from_first(b"")
            start = time.perf_counter()
            try:
                work(steps)
            except BROKEN:
                self.from_first(b"")  # Fails where a host is lost; else all of them have failed.
                raise
            seconds = struct.pack("d", time.perf_counter() - start)
            self.now += struct.unpack("d", self.from_first(seconds))[0]

        return together

    def from_first(self, data: bytes) -> bytes:
        """Return the bytes that the first process gives.

        Raises:
            DeviceError: When a host is lost.
        """
        with _lost_is_one_line():
            size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
            held = np.zeros(size, np.uint8)
            if self.is_first:
                held[:] = np.frombuffer(data, np.uint8)
            return multihost_utils.broadcast_one_to_all(held).astype(np.uint8).tobytes() if size else b""

    def any(self, own: bool) -> bool:
        """Return True if any process says True."""
        with _lost_is_one_line():
            return bool(np.any(multihost_utils.process_allgather(np.uint8(own))))

    def refuse(self, own: str) -> None:
        """Raise the first refusal of any process in all of them.

        Args:
            own: That of this process; empty if it has none.

        Raises:
            InputError: When a process refuses.
            DeviceError: When a host is lost.
        """
        text = own.encode()[:LONGEST_REFUSAL_BYTES].ljust(LONGEST_REFUSAL_BYTES, b"\0")
        with _lost_is_one_line():
            every = np.asarray(multihost_utils.process_allgather(np.frombuffer(text, np.uint8))).astype(np.uint8)
        for process, line in enumerate(every):
            if said := line.tobytes().rstrip(b"\0").decode(errors="replace"):
                raise InputError(f"process {process}: {said}")

    @contextmanager
    def refusing_together(self) -> Iterator[None]:
        """Let what one process refuses end all of them.

        Raises:
            InputError: When a process refuses.
            DeviceError: When a host is lost.
        """
        own = ""
        try:
            yield
        except InputError as error:
            own = str(error)
        self.refuse(own)

    def agree(self, asked: Sequence[str]) -> None:
        """Compare what every process was asked for with what the first one was; nothing else would notice.

        Args:
            asked: What this one was asked for, in words.

        Raises:
            InputError: When a process has another experiment or another number of processes.
            DeviceError: When a host is lost.
        """
        first = msgspec.json.decode(self.from_first(msgspec.json.encode(asked)), type=list[str])
        with self.refusing_together():
            if self._processes not in (None, count := jax.process_count()):
                raise InputError(f"--processes: {self._processes}, expected {count} as in process 0")
            for own, other in zip_longest(asked, first, fillvalue="no more experiments"):
                if own != other:
                    raise InputError(f"{own}, expected {other} as in process 0")


def _refuse_unknown(coordinator: str) -> None:
    """Refuse a host name that nobody knows: JAX would ask for it until its time is over."""
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--coordinator: the host {printable(host)} is not found ({reason(error)})") from None


def _meet(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Wait for all processes; if they do not come in time, end this one with one line.

    Raises:
        InputError: When JAX does not find what is None.
    """
    all_of_them = f"{processes} processes" if processes else "the processes"
    at, within = f" at {coordinator}" if coordinator else "", readable(JOIN_SECONDS)
    late = (
        f"--coordinator: {all_of_them} did not meet{at} within {within}, expected this command on every host, with the"
        " same --coordinator and --processes, and another --process on each"
    )
    says = Timer(SILENT_SECONDS, Progress().say, [f"waiting for {all_of_them}{at}, at most {within}"])
    says.daemon = True
    says.start()
    try:
        with ends_within(JOIN_SECONDS, says.cancel, late), _interrupted_at_once():
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                initialization_timeout=JOIN_SECONDS + LATER_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
    except (ValueError, RuntimeError) as error:
        given = {"--coordinator HOST:PORT": coordinator, "--processes N": processes, "--process I": process}
        missing = [option for option, value in given.items() if value is None]
        if isinstance(error, ValueError) and missing:
            raise InputError(f"--multihost: JAX finds no program here, expected {' and '.join(missing)} too") from None
        raise InputError(f"--multihost: the processes did not meet ({reason(error)})") from None
    finally:
        says.cancel()


@contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process, as the system does: Python would handle it once JAX has ended its wait."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _refuse_taken(port: int) -> None:
    """Refuse the port of the first process if another program has it, which JAX does not report."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError as error:
            raise InputError(f"--coordinator: port {port} cannot be used here ({reason(error)})") from None


def _keep_standard_output() -> None:
    """Send what libraries print to standard error from here on: Gloo reports its connections on standard output."""
    sys.stdout.flush()
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(own, "w")


@contextmanager
def _last_word() -> Iterator[Callable[[], None]]:
    """Let a small process write `GONE` if this one ends before it says that it leaves.

    Where the first host is lost, a thread of JAX aborts the process, so nothing in this process can write a last line.

    Yields:
        Says that this process leaves.
    """
    if jax.process_index() == 0:
        yield lambda: None
        return
    line = f"batchscale: {GONE}\n"
    with subprocess.Popen(  # noqa: S603 - a fixed argument list, no shell
        [sys.executable, "-I", "-S", "-c", WATCH, line], stdin=subprocess.PIPE, start_new_session=True
    ) as watcher:
        stdin = watcher.stdin

        def leave() -> None:
            if stdin is not None and not stdin.closed:
                stdin.write(b"left")
                stdin.close()

        try:
            yield leave
        finally:
            leave()


@contextmanager
def _lost_is_one_line() -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise DeviceError(
            f"a host of this program was lost ({reason(error)}); all rows are kept."
            " Start the command on every host again to measure the rest"
        ) from None


class AgreedStopper(Stopper):
    """Stops all processes where one of them was asked to stop."""

    def __init__(self, hosts: Hosts, own: Stopper) -> None:
        super().__init__()
        self._hosts, self._own = hosts, own

    def check(self) -> None:
        """Stop here if a process was asked to.

        Raises:
            Stopped: In every process.
            DeviceError: When a host is lost.
        """
        if self._hosts.any(self._own.requested):
            raise Stopped


class Leader:
    """The runner of the first process: it sends each job to the others and does it with them."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts, self._jobs, self._are_together = hosts, 0, False

    def run(self, stage: Jobs, chains: Sequence[Iterator[Job]]) -> None:
        """Do jobs of timing, one after another.

        Raises:
            InputError: When a process has other versions or data.
            Stopped: When a signal asked a process to stop.
            DeviceError: When a host is lost, or the devices keep failing.
        """
        for chain in chains:
            for job in chain:
                if not isinstance(stage, Throughput) or not isinstance(job, TimingJob):
                    raise InputError(f"--multihost: {job.item}, expected only cells to time")
                self._time(stage, job)

    def _time(self, stage: Throughput, job: TimingJob) -> None:
        if job.calibrates:
            calibration.measure(stage.timing, again=bool(stage.missing))
        # The largest batch size is searched in child processes, which are no part of the program.
        job = msgspec.structs.replace(job, calibrates=False, limit=False)
        work = instructions_of(stage, job, versions_of(stage.session.host), retries_failed=self._retries(stage.session))
        self._are_together = True
        self._hosts.from_first(encoded(work))
        self._hosts.refuse("")
        with in_lockstep(stage.timing, self._hosts):
            stage.measure(job)
        self._are_together = False

    def _retries(self, session: Session) -> bool:
        """Return True for the first job alone: what fails in this run is not tried again in a later job."""
        self._jobs += 1
        return session.retries_failed and self._jobs == 1

    def release(self) -> None:
        """Let the other processes end, if they wait for a job; what ended a job ended it in all of them.

        Raises:
            DeviceError: When a host is lost.
        """
        if not self._are_together:
            self._hosts.from_first(b"")


def follow(hosts: Hosts, stopper: Stopper, host: Host) -> None:
    """Do the jobs of the first process until it has no more.

    Args:
        hosts: The processes.
        stopper: Asks all of them to stop.
        host: This machine.

    Raises:
        InputError: When a process has other versions or data.
        Stopped: When a signal asked a process to stop.
        DeviceError: When a host is lost, or the devices keep failing.
    """
    while data := hosts.from_first(b""):
        work = msgspec.json.decode(data, type=Instructions)
        with TemporaryDirectory() as folder:
            stage, refusal = _furnished(work, host, Path(folder))
            hosts.refuse(refusal)
            if stage is not None and work.assignment is not None and isinstance(work.assignment.job, TimingJob):
                stage.session.stopper = stopper
                with in_lockstep(stage.timing, hosts):
                    stage.measure(work.assignment.job)


def _furnished(work: Instructions, host: Host, folder: Path) -> tuple[Throughput | None, str]:
    """Return the stage of a job, or why this process cannot do it."""
    try:
        worker_main.refuse_other_versions(work, host)
        if work.assignment is None:
            return None, "it was sent nothing to do"
        session = worker_main.furnished(work.assignment, host, folder, lambda _: None)
        return worker_main.timing_stage(work.assignment, session, lambda _: None), ""
    except InputError as error:
        return None, str(error)


@contextmanager
def in_lockstep(timing: Timing, hosts: Hosts) -> Iterator[None]:
    """Let all decisions be those of the first process."""
    session = timing.session
    memory = int(hosts.from_first(str(session.host.program_memory_bytes()).encode()))
    before = session.host, session.stopper
    session.host = RemoteHost.of(session.host, memory)
    session.stopper = AgreedStopper(hosts, session.stopper)
    timing.clock, timing.shared, timing.isolates = hosts.clock, hosts.shared, False
    # Sensors see the devices of one host only.
    timing.sensors = lambda _: sensors.NONE
    try:
        yield
    finally:
        session.host, session.stopper = before
