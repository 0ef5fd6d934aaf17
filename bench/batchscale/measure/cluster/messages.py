"""What a worker on another machine is sent, and its answers, as plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

import batchscale.models
from batchscale.config.experiment import Experiment
from batchscale.measure.cluster.worker_process import Ended
from batchscale.measure.convergence.tiers import TuningJob
from batchscale.measure.convergence.trial_job import TrialJob
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.measure.device.machine import Host
from batchscale.measure.session import Jobs
from batchscale.measure.throughput.stage import TimingJob
from batchscale.records.machine_file import Machine
from batchscale.records.row_types import AnyRow, Data

COMPARED = ("jax", "jaxlib", "flax", "optax", "numpy")
"""Packages whose versions must be the same on every machine of a run."""

Job = TrialJob | TuningJob | TimingJob


class Assignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job of an experiment.

    Attributes:
        experiment: The experiment as it is run.
        sources: The folder that paths of the experiment are relative to.
        machine: The machine that rows name: the whole node, even where a worker sees one of its devices.
        data: What is measured on.
        choices: Lowerings and shapes chosen so far, as in `tuning.json`.
        rows: Rows that the job goes on from.
        retries_failed: True if whatever failed in an earlier run is tried again.
        job: The job.
    """

    experiment: Experiment
    sources: str
    machine: Machine
    data: Data
    choices: dict[str, Tuned]
    rows: list[AnyRow]
    retries_failed: bool
    job: Job


class Instructions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is sent.

    Attributes:
        versions: Versions that the worker must have, by package.
        assignment: What it does once it has described its machine.
    """

    versions: dict[str, str]
    assignment: Assignment | None = None


class Greeting(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="greeting"):
    """The first answer: the machine and the software of a worker.

    Attributes:
        host: What the worker sees of its machine.
        memory_bytes: Memory that one program may use.
    """

    host: Host
    memory_bytes: int


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="refusal"):
    """Why a worker does nothing."""

    reason: str


class Choices(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="choices"):
    """Lowerings and shapes that a worker has chosen."""

    choices: dict[str, Tuned]


def instructions_of(stage: Jobs, job: Job, versions: Mapping[str, str], *, retries_failed: bool) -> Instructions:
    """Return what a worker is sent to do a job of a stage.

    Args:
        stage: The stage.
        job: The job.
        versions: Versions that the worker must have.
        retries_failed: See `Assignment`.
    """
    session = stage.session
    assignment = Assignment(
        experiment=session.experiment,
        sources=str(session.sources.absolute()),
        machine=session.host.machine,
        data=session.data,
        choices=session.tuning.choices,
        rows=stage.rows_for(job),
        retries_failed=retries_failed,
        job=job,
    )
    return Instructions(versions=dict(versions), assignment=assignment)


Answer = AnyRow | Greeting | Refusal | Choices | Ended
_answers = msgspec.json.Decoder(Answer)


def encoded(message: Instructions | Answer) -> bytes:
    """Return a message as one line of JSON."""
    return msgspec.json.encode(message) + b"\n"


def answered(line: bytes) -> Answer:
    """Return the answer in a line.

    Raises:
        DecodeError: When the line holds none.
    """
    return _answers.decode(line)


def versions_of(host: Host) -> dict[str, str]:
    """Return the version and the files of this package, and the versions of those that rows depend on."""
    packages = host.environment.packages
    known = {name: packages[name] for name in COMPARED if name in packages}
    return {"batchscale": host.code, "its files": package_hash(), **known}


@cache
def package_hash(folder: Path = Path(batchscale.__file__).parent) -> str:
    """Return the first digits of a hash of the package's code: one release may be installed with and without a change.

    Args:
        folder: That of the package.
    """
    # A wheel holds the models inside of the package, and a checkout next to it.
    own = {path.relative_to(folder): path for path in folder.rglob("*.py") if path.parent != folder / "models"}
    models = {Path("models", path.name): path for path in Path(batchscale.models.__path__[0]).glob("*.py")}
    found = hashlib.sha256()
    for name, path in sorted({**own, **models}.items()):
        found.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return in words which versions differ; empty if none do."""
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    return ", ".join(f"{name} {there.get(name, 'none')} there, {here.get(name, 'none')} here" for name in names)
