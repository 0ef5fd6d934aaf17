"""Check a machine before a run: one line for each thing that could go wrong."""

from __future__ import annotations

import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from batchscale.errors import InputError
from batchscale.measure.ahead import plugins, targets
from batchscale.measure.data.datasets import available, dataset_names
from batchscale.measure.data.files.sources import Answer, folder_fault
from batchscale.measure.device import compiled_programs, sensors
from batchscale.measure.device import machine as device
from batchscale.records.machine_file import Environment, Machine

COARSE_TIMER_SECONDS = 1e-5
"""A timer this coarse is an error of 1 in 10,000 in a timed round of 0.1 s."""
LITTLE_MEMORY_BYTES = 2 << 30


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        item: What was checked.
        value: What was found.
        ok: True if it does not limit a run.
    """

    item: str
    value: str
    ok: bool


def diagnose(results: Path) -> list[Finding]:
    """Check device, versions, timer, memory, the folder `results`, and every source of every dataset."""
    findings = [*_device(), _results(results), _planning()]
    if fault := folder_fault():
        findings.append(Finding("data folder", fault, ok=False))
    names = dataset_names()
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(available, names))
    return [*findings, *(line for name, found in zip(names, answers, strict=True) for line in _sources(name, found))]


def _device() -> list[Finding]:
    """Report the device, or why JAX cannot use the one that was asked for."""
    try:
        machine, environment = device.describe()
    except InputError as error:
        return [Finding("device", str(error), ok=False)]
    return [*_machine(machine), *_software(environment), _timer(), *_sensors(machine)]


def _machine(machine: Machine) -> list[Finding]:
    count = f"{machine.device_count} x " if machine.device_count > 1 else ""
    memory = [
        Finding("host memory", gibibytes(machine.host_memory_bytes), machine.host_memory_bytes >= LITTLE_MEMORY_BYTES)
    ]
    if machine.device_memory_bytes is not None:
        memory.append(Finding("device memory", gibibytes(machine.device_memory_bytes), ok=True))
    return [
        Finding("machine", machine.name, ok=True),
        Finding("device", f"{count}{machine.device_kind} ({machine.platform})", not machine.virtual_devices),
        Finding("processor", f"{machine.cpu}, {machine.cpu_cores} cores", ok=True),
        *memory,
    ]


def _software(environment: Environment) -> list[Finding]:
    code = device.code_version()
    return [
        Finding("python", environment.python, ok=True),
        *(Finding(name, version, ok=True) for name, version in environment.packages.items()),
        *([Finding("driver", environment.driver, ok=True)] if environment.driver else []),
        Finding("products by default", environment.settings.get("default_products", "float32"), ok=True),
        Finding("code", f"{code.version}{' with changes' if code.dirty else ''}", not code.dirty),
    ]


def _timer() -> Finding:
    seconds = compiled_programs.resolution()
    value = f"{seconds * 1e9:.0f} ns" if math.isfinite(seconds) else "stands still"
    return Finding("timer resolution", value, seconds <= COARSE_TIMER_SECONDS)


def _sensors(machine: Machine) -> list[Finding]:
    """Check for an energy counter, without which everything else is still measured, and for other processes."""
    found = sensors.find(machine.platform)
    period, others = found.period_seconds, found.other_processes()
    value = f"advances every {period * 1e3:.0f} ms" if period else "not readable"
    counter = Finding("energy counter", value, period > 0)
    return (
        [counter] if others is None else [counter, Finding("other processes on the device", str(others), others == 0)]
    )


def _results(folder: Path) -> Finding:
    """Check that a file can be made in the results folder, or in the folder that it would be made in."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Finding("results folder", f"{folder} can be written", ok=True)
    except OSError as error:
        return Finding("results folder", f"{folder} cannot be written ({error.strerror})", ok=False)


def _planning() -> Finding:
    """Report for which devices `batchscale plan` can compile; none of them limits a run."""
    why = {name: plugins.missing(target) for name, target in targets.targets().items()}
    able = [name for name, missing in why.items() if missing is None]
    return Finding("plan --on", ", ".join(able) or next(missing for missing in why.values() if missing), ok=True)


def _sources(dataset: str, answers: list[Answer]) -> list[Finding]:
    """Report the source that the dataset would come from, then the answer of every source."""
    first = next((answer.source for answer in answers if answer.answers), None)
    return [
        Finding(f"dataset {dataset}", f"from {first}" if first else "no source answers", first is not None),
        *(Finding(f"{dataset}: {answer.source}", answer.reason, answer.answers) for answer in answers),
    ]


def gibibytes(count: int) -> str:
    """Format a number of bytes in GiB."""
    return f"{count / 2**30:.1f} GiB"
