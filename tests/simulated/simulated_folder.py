"""Make results folders, or only their rows, from a known truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import tomli_w
from batchscale.records.machine_file import Environment, Machine, MachineFile
from batchscale.records.row_types import AnyRow
from simulated_convergence import convergence_rows, trial
from simulated_throughput import throughput_rows
from truth import Truth, experiment, experiment_table, origin

__all__ = ["Truth", "change", "experiment", "experiment_table", "machine_file", "origin", "rows", "trial", "write"]

change = msgspec.structs.replace


def machine_file(name: str = "simulated-cpu") -> MachineFile:
    machine = Machine(
        name=name,
        platform="cpu",
        device_kind="cpu",
        device_count=1,
        cpu="Simulated processor",
        cpu_cores=2,
        host_memory_bytes=8 << 30,
    )
    software = Environment(python="3.11", os="Linux", packages={"jax": "0.10.0"})
    return MachineFile(machine=machine, environments={"abcd": software})


def rows(truth: Truth, seed: int = 0, machine: str = "simulated-cpu") -> list[AnyRow]:
    """Return every row of a folder, throughput first."""
    random = np.random.default_rng(seed)
    return [*throughput_rows(truth, random, machine), *convergence_rows(truth, random, machine)]


def write(folder: Path, truth: Truth | None = None, seed: int = 0, machine: str = "simulated-cpu", **changes) -> Truth:
    """Write a complete results folder drawn from `truth` with `changes`. Return the changed truth."""
    truth = replace(truth or Truth(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    table = {"name": "simulated", **experiment_table(truth)}
    (folder / "experiment.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    (folder / "machine.json").write_bytes(msgspec.json.encode(machine_file(machine)))
    random = np.random.default_rng(seed)
    for name, make in _FILES.items():
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in make(truth, random, machine))
        (folder / name).write_bytes(lines)
    return truth


_FILES: dict[str, Callable[..., Iterator[AnyRow]]] = {
    "throughput.jsonl": throughput_rows,
    "convergence.jsonl": convergence_rows,
}
