"""Export timed rounds in the file format of another tool, so that its commands can read them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import CellKey
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.records.machine_file import MachineFile
from batchscale.records.row_types import Round

FORMAT_VERSION = "5.1.0"
"""The version of pytest-benchmark that writes this format."""
PARAMETERS = CellKey.__struct_fields__
WHISKER = 1.5
"""A round further than this many interquartile ranges from the quartiles is an outlier (Tukey)."""

CellRounds = Mapping[tuple[Any, ...], Sequence[Round]]


def export(folder: Path, form: str, out: Path | None = None) -> Path:
    """Write the timed rounds of a results folder in the format `form`, one of `FORMATS`; return the file.

    Raises:
        InputError: when the folder's files are missing or not valid, no rounds were timed, or the disk fails.
    """
    experiment, machine = results_folder.read_experiment(folder), results_folder.read_machine(folder)
    cells = _rounds(folder, experiment)
    if not cells:
        raise InputError(
            f"{folder / results_folder.THROUGHPUT}: holds no timed rounds of steps, expected some of batchscale run"
        )
    path = out or folder / f"{form}.json"
    row_files.write_json(path, FORMATS[form](experiment, machine, cells))
    return path


def _rounds(folder: Path, experiment: Experiment) -> CellRounds:
    """Return the rounds of each timed cell in order; of a round measured twice, the later counts."""
    found: dict[tuple[Any, ...], dict[int, Round]] = defaultdict(dict)
    for row in results_folder.rows(folder, results_folder.THROUGHPUT, experiment):
        if isinstance(row, Round):
            found[tuple(getattr(row, name) for name in PARAMETERS)][row.round] = row
    return {cell: [of_cell[number] for number in sorted(of_cell)] for cell, of_cell in sorted(found.items())}


def pytest_benchmark(experiment: Experiment, machine: MachineFile, cells: CellRounds) -> dict[str, Any]:
    """Convert each timed cell to a benchmark, and each round to a sample in seconds per training step.

    `pytest-benchmark compare` sets equal `fullname`s of two files side by side, and groups by any of `params`.
    """
    rows = [row for rounds in cells.values() for row in rounds]
    last = max(rows, key=lambda row: row.recorded)
    return {
        "machine_info": _machine_info(machine, last.environment),
        "commit_info": {
            "id": last.code,
            "time": None,
            "author_time": None,
            "dirty": any(row.dirty for row in rows),
            "project": "batchscale",
            "branch": "(unknown)",
        },
        "benchmarks": [_benchmark(experiment, dict(zip(PARAMETERS, cell, strict=True)), cells[cell]) for cell in cells],
        "datetime": last.recorded,
        "version": FORMAT_VERSION,
    }


def _machine_info(machine: MachineFile, environment: str) -> dict[str, Any]:
    """Describe hardware and software by the names of pytest-benchmark, and in full by our own."""
    hardware, software = machine.machine, machine.environments.get(environment)
    return {
        "node": hardware.name,
        "processor": hardware.cpu,
        "machine": hardware.device_kind,
        "cpu": {"brand_raw": hardware.cpu, "count": hardware.cpu_cores},
        "python_version": software.python if software else None,
        "system": software.os if software else None,
        "hardware": msgspec.to_builtins(hardware),
        "software": msgspec.to_builtins(software),
    }


def _benchmark(experiment: Experiment, params: dict[str, Any], rounds: Sequence[Round]) -> dict[str, Any]:
    param = "-".join(str(value) for value in params.values())
    samples = [row.seconds / row.steps for row in rounds]
    first = rounds[0]
    return {
        "group": None,
        "name": f"train_step[{param}]",
        "fullname": f"{experiment.name}::train_step[{param}]",
        "params": params,
        "param": param,
        "extra_info": {
            "workload": msgspec.to_builtins(experiment.workload),
            "fingerprint": first.fingerprint,
            "lowering": first.lowering,
            "examples_per_second": first.batch_size / statistics.median(samples),
            "joules": [row.joules for row in rounds],
        },
        "options": {},
        "stats": {**sample_statistics(samples), "iterations": min(row.steps for row in rounds)},
    }


def sample_statistics(samples: Sequence[float]) -> dict[str, Any]:
    """Return the statistics of pytest-benchmark for samples (rounds,) in seconds; its quartiles are Hazen's."""
    data = np.sort(np.asarray(samples, dtype=np.float64))
    first, middle, third = np.quantile(data, [0.25, 0.5, 0.75], method="hazen").tolist()
    mean, spread = statistics.mean(samples), statistics.stdev(samples) if len(samples) > 1 else 0.0
    low, high = first - WHISKER * (third - first), third + WHISKER * (third - first)
    inside = data[(data >= low) & (data <= high)]
    far = {
        "stddev_outliers": int((np.abs(data - mean) > spread).sum()),
        "iqr_outliers": len(data) - len(inside),
    }
    return {
        "min": float(data[0]),
        "max": float(data[-1]),
        "mean": mean,
        "stddev": spread,
        "rounds": len(data),
        "median": middle,
        "iqr": third - first,
        "q1": first,
        "q3": third,
        **far,
        "outliers": f"{far['stddev_outliers']};{far['iqr_outliers']}",
        "ld15iqr": float(inside[0]),
        "hd15iqr": float(inside[-1]),
        "ops": len(data) / sum(samples),
        "total": sum(samples),
        "data": list(samples),
    }


FORMATS: dict[str, Callable[[Experiment, MachineFile, CellRounds], dict[str, Any]]] = {
    "pytest-benchmark": pytest_benchmark
}
